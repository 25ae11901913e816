"""`rag-outbox backup restore`: every step may be interrupted, and the whole be run again.

The dump is loaded next to the target, and becomes a new history there. Only then do its tables move to their place, all
at one moment: nobody writes before. What follows is repeated by `rag-outbox init`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from consumers.minio.translate import translate_errors
from operations import history, sinks, wiring
from operations.backup.create import Phase, silent
from operations.backup.database.loading import compare_tables, load_dump, require_dialect, require_whole
from operations.backup.database.target import move_tables, require_empty
from operations.backup.errors import BackupUnusable, OtherBackup
from operations.backup.manifest import Manifest
from operations.backup.newest import BUCKET, COPY, note_made
from operations.backup.objects import copy, object_list
from operations.backup.objects.copy import Outcome
from operations.backup.objects.lacking_files import find_lacking
from operations.backup.settling.settle_sinks import Settled, settle_sinks
from operations.settings import Settings
from operations.wiring import System
from schema.database import migrate
from schema.kafka import topics
from schema.object_store.port import ObjectStore

_SHOWN = 20


@dataclass
class Restored:
    """`lacking`: the first files, with their documents, that were removed since the dump; `lacking_files`: how many.

    `incomplete`: the first objects that the backup itself lacks.
    """

    history_id: str
    settled: Settled
    copied: int = 0
    incomplete: list[str] = field(default_factory=list)
    lacking_files: int = 0
    lacking: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def restore(
    settings: Settings,
    source: ObjectStore,
    manifest: Manifest,
    *,
    copies: bool,
    system_id: str | None = None,
    phase: Phase = silent,
) -> Restored:
    """Restore a backup. With `copies`, `source` is another place than the bucket, and has the objects.

    Raises NotEmpty, OtherBackup, BackupUnusable, ClientUnusable, WrongModel, OtherSystem, and Retryable: run it again.
    """
    _require_fitting(settings, manifest, system_id, copies=copies)
    settings.require_all()
    require_dialect(settings, manifest)
    require_empty(settings.database)
    with phase("Reading the dump"):
        require_whole(source, manifest)
    with translate_errors(), ExitStack() as stack:
        with phase("Loading the dump"):
            engine = stack.enter_context(load_dump(settings, source, manifest, "restore"))
        if differences := compare_tables(engine, manifest):
            raise BackupUnusable(f"the dump differs from its manifest: {'; '.join(differences)}")
        migrate.upgrade(engine)
        history_id = _start_history(settings, engine, f"restored the backup of {manifest.timestamp}")
        system = System(settings, engine)
        wiring.require_initialised(system)
        sinks.refuse_other_systems(system, system.identity.system_id)
        restored = Restored(history_id, Settled("", None))
        system.store.ensure()
        if copies:
            with phase("Copying objects") as advance:
                _copy_back(source, system.store, manifest, restored, advance)
        with phase("Looking for files"):
            for one in find_lacking(engine, system.store):
                restored.lacking_files += 1
                if len(restored.lacking) < _SHOWN:
                    restored.lacking.append(one)
        with phase("Reading events") as advance:
            restored.settled = settle_sinks(system, manifest, advance)
        note_made(engine, COPY if copies else BUCKET, manifest, None)  # the dump does not know that it was completed
        move_tables(engine, settings.database)
    with wiring.open_system(settings, has_limit=False) as system:
        restored.notes += sinks.create_stores(system)
        if settings.kafka is not None:
            restored.notes += topics.ensure(settings.kafka, system.names, system.identity.lanes, sinks.names(system))
    return restored


def _require_fitting(settings: Settings, manifest: Manifest, system_id: str | None, *, copies: bool) -> None:
    """Raises OtherBackup, before anything is read or written."""
    if system_id not in (None, manifest.system_id):
        raise OtherBackup(f"the backup is that of the system {manifest.system_id}, not {system_id}")
    if manifest.namespace != settings.namespace:
        raise OtherBackup(
            f"the backup has the namespace {manifest.namespace!r}, and RAG_OUTBOX_NAMESPACE is {settings.namespace!r}"
        )
    if copies and not manifest.has_copy:
        raise OtherBackup("the backup in that place has no copy of the objects: it is the bucket of a system")


def _start_history(settings: Settings, engine: Engine, reason: str) -> str:
    """On SQLite, the outbox goes on after the ids that sinks have seen, if the note of them survived."""
    if engine.dialect.name == "sqlite":
        with suppress(FileNotFoundError):
            shutil.copy(f"{settings.database.database}.relayed", f"{engine.url.database}.relayed")
    return history.start(engine, reason)


def _copy_back(
    source: ObjectStore, target: ObjectStore, manifest: Manifest, restored: Restored, advance: Callable[[int], None]
) -> None:
    """Bring back what the bucket lacks, or has with another content: that is of the history that is lost."""
    listed = object_list.read_list(source, manifest.objects)
    sources = copy.find_sources(source, manifest.timestamp)
    for key, _, outcome in copy.copy_objects(source, target, listed, sources=sources, advance=advance):
        if outcome is Outcome.COPIED:
            restored.copied += 1
        elif outcome is not Outcome.SKIPPED and len(restored.incomplete) < _SHOWN:
            restored.incomplete.append(f"{key} is {'missing' if outcome is Outcome.GONE else 'damaged'}")


@contextmanager
def prepare_folder(settings: Settings) -> Iterator[None]:
    """In the embedded profile, make the data folder and hold it, so that no `run` works meanwhile."""
    from operations.profiles.embedded import hold_lock

    if settings.kafka is not None:
        yield
        return
    Path(settings.data_dir).mkdir(parents=True, exist_ok=True)
    with hold_lock(settings.data_dir):
        yield
