"""The backups in a place: complete ones have a manifest, interrupted ones do not."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from operations.backup import keys, manifest
from operations.backup.errors import BackupUnusable
from operations.backup.manifest import Manifest
from schema.object_store.port import ObjectStore

_INTERRUPTED_FOR = timedelta(days=1)  # one that is being made has no manifest either


@dataclass(frozen=True)
class Entry:
    """`manifest` is None for an interrupted backup, and for one that cannot be read: `problem` says why."""

    timestamp: str
    keys: tuple[str, ...]
    manifest: Manifest | None
    problem: str = ""


def list_backups(store: ObjectStore) -> list[Entry]:
    """The oldest first."""
    return [_describe(store, timestamp, found) for timestamp, found in sorted(_find(store).items())]


def find_newest(store: ObjectStore) -> str:
    """The timestamp of the newest backup with a manifest. Raises BackupUnusable if there is none."""
    complete = [one for one, found in _find(store).items() if keys.manifest_key(one) in found]
    if not complete:
        raise BackupUnusable(f"there is no complete backup in {store.location(keys.METADATA.rstrip('/'))}")
    return max(complete)


def choose_timestamp(store: ObjectStore, now: datetime | None = None) -> str:
    """A timestamp that no backup has."""
    at, taken = now or datetime.now(UTC), _find(store)
    while (timestamp := keys.format_timestamp(at)) in taken:
        at += timedelta(seconds=1)
    return timestamp


def remove_interrupted(store: ObjectStore, now: datetime | None = None) -> list[str]:
    """Remove what interrupted backups left more than a day ago. Returns the keys."""
    before = keys.format_timestamp((now or datetime.now(UTC)) - _INTERRUPTED_FOR)
    removed = [
        key
        for timestamp, found in _find(store).items()
        if timestamp < before and keys.manifest_key(timestamp) not in found
        for key in found
    ]
    store.remove(removed)
    return removed


def _find(store: ObjectStore) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in _keys(store):
        if (timestamp := keys.timestamp_of(key)) is not None:
            found[timestamp].append(key)
    return found


def _keys(store: ObjectStore) -> Iterator[str]:
    yield from store.keys(keys.DUMPS)
    yield from store.keys(keys.METADATA)


def _describe(store: ObjectStore, timestamp: str, found: list[str]) -> Entry:
    if keys.manifest_key(timestamp) not in found:
        return Entry(timestamp, tuple(found), None, "interrupted")
    try:
        return Entry(timestamp, tuple(found), manifest.read(store, timestamp))
    except BackupUnusable as error:
        return Entry(timestamp, tuple(found), None, str(error))
