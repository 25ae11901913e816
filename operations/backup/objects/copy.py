"""Copies objects from one store to another: those that the target lacks, or has with another content.

An object of the target that is replaced may belong to an older backup there: it is kept under `backups/replaced/`, with
the timestamp of the backup that replaced it.
"""

import mimetypes
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

from consumers.minio.translate import translate_errors
from operations.backup import keys
from operations.backup.errors import BackupUnusable
from operations.backup.objects.object_list import Sized, list_objects
from operations.backup.objects.streams import DigestReader, VerifyingReader
from schema.batches import bounded
from schema.object_store.layout import is_staging_key
from schema.object_store.port import ObjectMissing, ObjectStore
from schema.retry import call_with_retry

_THREADS = 8  # hide the latency of requests; each may hold a part of a large object in memory
_BATCH = 1_000
_ATTEMPTS = 4  # of a request that fails, and of an object that changes while it is read
_REPLACED = f"{keys.FOLDER}replaced/"
_UNKNOWN_TYPE = "application/octet-stream"


class Outcome(Enum):
    COPIED = "copied"
    SKIPPED = "skipped"
    GONE = "gone"
    DAMAGED = "damaged"


Copy = tuple[str, int, Outcome]  # key, bytes, and what happened


def copy_objects(
    source: ObjectStore,
    target: ObjectStore,
    objects: Iterable[Sized],
    *,
    sources: Mapping[str, str] | None = None,
    replaced_by: str | None = None,
    prefix: str = "",
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Copy]:
    """Copy `objects`, which are in order and begin with `prefix`, and yield each of them in order.

    `sources` names other keys of the source for some of them. With `replaced_by`, a timestamp, the target keeps what is
    replaced. Raises Retryable, Permanent, StoreMissing, and OSError.
    """

    def copy(one: tuple[str, int, int | None]) -> Copy:
        key, size_bytes, held_bytes = one
        from_key = (sources or {}).get(key, key)
        return key, *_copy_changing(_Transfer(source, from_key, target, key, held_bytes, replaced_by), size_bytes)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="backup-copy") as pool:
        for some in bounded(_join(objects, list_objects(target, prefix)), _BATCH):
            for done in pool.map(copy, some):
                advance(1)
                yield done


def find_sources(store: ObjectStore, timestamp: str) -> dict[str, str]:
    """The objects of the backup of `timestamp` that later backups replaced: key → where the first of them kept it."""
    found: dict[str, str] = {}
    for kept in store.keys(_REPLACED):
        replaced_by, _, key = kept.removeprefix(_REPLACED).partition("/")
        if replaced_by > timestamp:
            found.setdefault(key, kept)
    return found


def copy_verified(
    source: ObjectStore, target: ObjectStore, key: str, *, size_bytes: int, sha256: str, content_type: str
) -> None:
    """Copy one object whose digest is known. Raises BackupUnusable if it is damaged or missing: nothing is written."""
    try:
        with source.open(key) as stream:
            checked = VerifyingReader(stream, source.location(key), size_bytes=size_bytes, sha256=sha256)
            target.put(key, checked, size_bytes=size_bytes, content_type=content_type, sha256=sha256)
    except ObjectMissing:
        raise BackupUnusable(f"{source.location(key)} is missing") from None


def _join(objects: Iterable[Sized], held: Iterator[Sized]) -> Iterator[tuple[str, int, int | None]]:
    """With the size that the target has of each object, by one pass over both."""
    have, have_bytes = next(held, (None, 0))
    for key, size_bytes in objects:
        while have is not None and have.encode() < key.encode():
            have, have_bytes = next(held, (None, 0))
        yield key, size_bytes, have_bytes if have == key else None


@dataclass(frozen=True)
class _Transfer:
    """One object on its way to the target, which has `held_bytes` of it, or None if it lacks the object.

    With `replaced_by`, a timestamp, the target keeps what is replaced.
    """

    source: ObjectStore
    from_key: str
    target: ObjectStore
    key: str
    held_bytes: int | None
    replaced_by: str | None


def _copy_changing(transfer: _Transfer, size_bytes: int) -> tuple[int, Outcome]:
    """Copy an object of this size; read it again if it changed during the copy. Returns its newest size."""
    for _ in range(_ATTEMPTS):

        def copy_once() -> Outcome:
            with translate_errors():
                return _copy(transfer, size_bytes)  # noqa: B023

        try:
            return size_bytes, call_with_retry(copy_once, attempts=_ATTEMPTS)
        except BackupUnusable:
            found = next(transfer.source.sizes(transfer.from_key), None)
            if found is None or found[0] != transfer.from_key:
                return size_bytes, Outcome.GONE
            size_bytes = found[1]
    return size_bytes, Outcome.DAMAGED


def _copy(transfer: _Transfer, size_bytes: int) -> Outcome:
    source, from_key, target, key = transfer.source, transfer.from_key, transfer.target, transfer.key
    try:
        digest = source.sha256(from_key)
        is_same_size = transfer.held_bytes == size_bytes
        if is_same_size and (target.sha256(key) == digest if digest else is_staging_key(key)):
            return Outcome.SKIPPED  # a staged object has no digest, and never changes
        if transfer.held_bytes is not None and transfer.replaced_by is not None:
            _keep(target, key, transfer.replaced_by)
        content_type = mimetypes.guess_type(key)[0] or _UNKNOWN_TYPE
        with source.open(from_key) as stream:
            if digest is None:  # of another writer
                target.put(key, stream, size_bytes=None, content_type=content_type, sha256=None)
            else:
                checked = VerifyingReader(stream, source.location(from_key), size_bytes=size_bytes, sha256=digest)
                target.put(key, checked, size_bytes=size_bytes, content_type=content_type, sha256=digest)
    except ObjectMissing:
        return Outcome.GONE
    return Outcome.COPIED


def _keep(target: ObjectStore, key: str, replaced_by: str) -> None:
    """Keep an object of the target, but only once: what a later attempt replaces belongs to no backup."""
    kept = f"{_REPLACED}{replaced_by}/{key}"
    if next(target.keys(kept), None) == kept:
        return
    try:
        digest = target.sha256(key) or _compute_digest(target, key)
        target.copy(key, kept, content_type=mimetypes.guess_type(key)[0] or _UNKNOWN_TYPE, sha256=digest)
    except ObjectMissing:
        return


def _compute_digest(store: ObjectStore, key: str) -> str:
    with store.open(key) as stream:
        reader = DigestReader(stream)
        while reader.read(1024 * 1024):
            pass
        return reader.sha256
