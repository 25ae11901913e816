"""`rag-outbox backup create`: dump, list of objects, and manifest; and the same with the objects in another place.

The manifest is written last, so a backup that is interrupted at any step is not taken for a complete one. The objects
are copied after the snapshot of the dump, so the copy has every object that the dump names, except those that were
removed in between. Staged files come first: a consumer that moves one to its place during the copy leaves one of both
to the copy. Archives that retention rewrites during the copy are copied by one more pass.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import msgspec

from consumers.minio.translate import translate_errors
from operations import sinks
from operations.backup import catalogue, manifest
from operations.backup.database.dumping import Dumped, dump_database, require_dumpable
from operations.backup.database.exclusive import hold_backup_lock
from operations.backup.errors import BackupFailed
from operations.backup.manifest import Copied, Manifest, ObjectList, TopicPosition
from operations.backup.newest import BUCKET, COPY, BackupNotes
from operations.backup.objects import copy, object_list
from operations.backup.objects.copy import Outcome
from operations.backup.objects.object_list import Sized
from operations.wiring import System
from schema.database import revision
from schema.failures import Retryable
from schema.object_store import layout, marker
from schema.object_store.layout import STAGING_PREFIX
from schema.object_store.port import BucketMissing, ObjectStore
from schema.ownership import require_own

Phase = Callable[[str], AbstractContextManager[Callable[[int], None]]]
_SHOWN = 20
_PASSES = 3  # over all objects
_HELD = (Outcome.COPIED, Outcome.SKIPPED)


@contextmanager
def silent(_label: str) -> Iterator[Callable[[int], None]]:
    """A phase whose progress nobody sees."""
    yield lambda _: None


def create(
    system: System, target: ObjectStore | None = None, *, phase: Phase = silent, note: Callable[[str], None]
) -> Manifest:
    """Make a backup in the bucket of the system and, with its objects, in `target`. Returns the newest manifest.

    `note` gets lines for the person who looks. Raises BackupFailed, ClientUnusable, OtherSystem, BucketMissing.
    """
    require_dumpable(system)
    began, notes = time.monotonic(), BackupNotes(system.engine, note)
    with translate_errors(), hold_backup_lock(system.engine):
        for place in (BUCKET,) if target is None else (BUCKET, COPY):
            notes.begin(place)
        _require_own(system, system.store, "RAG_OUTBOX_OBJECT_STORE_BUCKET")
        if target is not None:
            target.ensure()
            marker.claim(target, system.identity.system_id)
            _require_own(system, target, "place with --to")
        for store in filter(None, (system.store, target)):
            for key in catalogue.remove_interrupted(store):
                note(f"removed {store.location(key)}, which an interrupted backup left")
        timestamp = catalogue.choose_timestamp(system.store)
        topic = _read_topic(system, note)
        with phase("Dumping the database"):
            dumped = dump_database(system, timestamp)
        if dumped.unverified:
            note(f"rows were not counted: {dumped.unverified}; see docs/backup.md")
        with phase("Listing objects") as advance:
            listed = object_list.write_list(
                system.store, timestamp, _counted(object_list.list_objects(system.store), advance)
            )
        made = _describe(system, timestamp, dumped, topic, listed)
        manifest.write(system.store, made)
        notes.end(BUCKET, made, time.monotonic() - began)
        if target is not None:
            if next(target.keys(made.dump.key), None) is not None:  # nobody else writes to this key
                raise BackupFailed(
                    f"the backup {timestamp} is in the bucket of the system, which --to names, too: name another one"
                )
            with phase("Copying objects") as advance:
                made = _copy(system.store, target, made, advance)
            notes.end(COPY, made, time.monotonic() - began)
        return made


def _require_own(system: System, store: ObjectStore, separate: str) -> None:
    bucket = store.location("x").removesuffix("/x")
    if not store.exists():
        raise BucketMissing(bucket)
    require_own(bucket, marker.read(store) or "nobody", system.identity.system_id, separate=separate)


def _read_topic(system: System, note: Callable[[str], None]) -> TopicPosition | None:
    if system.settings.kafka is None:
        return None
    from operations.backup.settling.topic_position import read_position

    try:
        return read_position(system.names, system.settings.kafka, sinks.names(system))
    except Retryable as error:
        note(f"the position of the topic is unknown ({error}): a restore will refill every document")
        return None


def _counted(listed: Iterator[Sized], advance: Callable[[int], None]) -> Iterator[Sized]:
    for one in listed:
        advance(1)
        yield one


def _describe(
    system: System, timestamp: str, dumped: Dumped, topic: TopicPosition | None, listed: ObjectList
) -> Manifest:
    identity = system.identity
    return Manifest(
        timestamp=timestamp,
        release=version("rag-outbox"),
        revision=revision.REVISIONS[-1],
        system_id=identity.system_id,
        namespace=identity.namespace,
        history_id=dumped.histories[-1],
        histories=dumped.histories,
        embedding_model=identity.embedding_model,
        dimension=identity.dimension,
        lanes=identity.lanes,
        server=dumped.server,
        dump=dumped.dump,
        tables=dumped.tables,
        unverified=dumped.unverified,
        locked_seconds=dumped.locked_seconds,
        topic=topic,
        objects=listed,
    )


@dataclass
class _Pass:
    """One pass over the objects; `is_rewritten`: it missed what retention wrote instead of an object that is gone."""

    copied: int = 0
    gone: int = 0
    damaged: list[str] = field(default_factory=list)
    is_rewritten: bool = False


def _copy(source: ObjectStore, target: ObjectStore, made: Manifest, advance: Callable[[int], None]) -> Manifest:
    """Copy the objects, then the dump, then write the manifest. Returns it."""
    given: dict[str, Any] = {"replaced_by": made.timestamp, "advance": advance}
    staged, copied = {}, 0
    wanted = object_list.list_objects(source, STAGING_PREFIX)
    for key, size_bytes, outcome in copy.copy_objects(source, target, wanted, prefix=STAGING_PREFIX, **given):
        copied += outcome is Outcome.COPIED
        if outcome in _HELD:
            staged[key] = size_bytes
    for _ in range(_PASSES):
        one = _Pass()
        listed = object_list.write_list(target, made.timestamp, _copy_all(source, target, staged, one, given))
        copied += one.copied
        if not one.is_rewritten:
            break
    dump = made.dump
    copy.copy_verified(
        source, target, dump.key, size_bytes=dump.size_bytes, sha256=dump.sha256, content_type="application/sql"
    )
    outcome_of_all = Copied(copied, max(0, listed.objects - copied), one.gone, one.damaged)
    made = msgspec.structs.replace(made, objects=listed, copied=outcome_of_all)
    manifest.write(target, made)
    return made


def _copy_all(
    source: ObjectStore, target: ObjectStore, staged: Mapping[str, int], one: _Pass, given: Mapping[str, Any]
) -> Iterator[Sized]:
    """Yields what the target has then, in order; it has the `staged` ones already."""
    wanted = object_list.merge(object_list.list_objects(source), staged.items())
    for key, size_bytes, outcome in copy.copy_objects(source, target, wanted, **given):
        one.copied += outcome is Outcome.COPIED
        if outcome in _HELD or key in staged:
            yield key, size_bytes
        elif outcome is Outcome.GONE:
            one.gone += 1
            one.is_rewritten |= _is_of_an_archive(source, key)
        elif len(one.damaged) < _SHOWN:
            one.damaged.append(key)


def _is_of_an_archive(store: ObjectStore, key: str) -> bool:
    """Whether an object that is gone belonged to an archive that is still there."""
    doc_id = layout.doc_id_of(key)
    if doc_id is None or not key.startswith(layout.ARCHIVES_PREFIX):
        return False
    return next(iter(store.keys(layout.embeddings_prefix(doc_id))), None) is not None
