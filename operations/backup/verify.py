"""`rag-outbox backup verify`: restore a backup in a place of its own, and compare it with its manifest."""

from dataclasses import dataclass, field

from operations.backup.create import Phase, silent
from operations.backup.database.loading import compare_tables, load_dump, require_dialect, require_whole
from operations.backup.errors import BackupUnusable
from operations.backup.manifest import Manifest
from operations.backup.objects import object_list
from operations.settings import Settings
from schema.object_store.port import ObjectStore


@dataclass
class Verified:
    """`differences`: a line per thing that is not as the manifest says. `notes` are no differences."""

    manifest: Manifest
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(settings: Settings, store: ObjectStore, manifest: Manifest, *, phase: Phase = silent) -> Verified:
    """Raises OtherBackup, ClientUnusable, BackupFailed when no scratch database can be made, and DBAPIError."""
    require_dialect(settings, manifest)
    found = Verified(manifest)
    try:
        with phase("Reading the dump"):
            require_whole(store, manifest)
        with phase("Restoring the dump"), load_dump(settings, store, manifest, "verify") as engine:
            found.differences += compare_tables(engine, manifest)
    except BackupUnusable as error:
        found.differences.append(str(error))
    if manifest.tables is None:
        found.notes.append(f"the rows were not compared: {manifest.unverified}")
    try:
        with phase("Comparing objects") as advance:
            compared = object_list.compare(object_list.read_list(store, manifest.objects), store, advance)
    except BackupUnusable as error:
        found.differences.append(str(error))
        return found
    if not (compared.missing or compared.changed):
        return found
    summary = f"{compared.missing} objects are missing, and {compared.changed} have another size"
    if manifest.has_copy:
        found.differences += [summary, *compared.shown]
    else:  # consumers go on with the bucket
        found.notes.append(f"since the backup, in the bucket of the system: {summary}")
    return found
