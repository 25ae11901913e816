"""The list of a backup's objects: a line per object, `size<TAB>key`, in the order of the keys."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from operations.backup import keys
from operations.backup.errors import BackupUnusable
from operations.backup.manifest import ObjectList
from operations.backup.objects.streams import DigestReader, LinesReader, read_lines
from schema.object_store.port import ObjectMissing, ObjectStore

Sized = tuple[str, int]  # key and bytes
_SHOWN = 20  # keys that a comparison names


@dataclass
class Compared:
    """The objects of a list that a store lacks, or has with another size: how many, and the first of them."""

    objects: int = 0
    missing: int = 0
    changed: int = 0
    shown: list[str] = field(default_factory=list)

    def note(self, key: str, what: str) -> None:
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{key} {what}")


def list_objects(store: ObjectStore, prefix: str = "") -> Iterator[Sized]:
    """What belongs to a backup, in order."""
    return ((key, size_bytes) for key, size_bytes in store.sizes(prefix) if keys.is_backed_up(key))


def merge(first: Iterable[Sized], second: Iterable[Sized]) -> Iterator[Sized]:
    """Two lists that are in order as one; of a key that both have, the object of the first."""
    merged = heapq.merge(first, second, key=lambda one: _order(one[0]))
    return (next(same) for _, same in groupby(merged, key=lambda one: one[0]))


def write_list(store: ObjectStore, timestamp: str, objects: Iterable[Sized]) -> ObjectList:
    """Write the list to a store while it is being made."""
    count = size_bytes = 0

    def lines() -> Iterator[bytes]:
        nonlocal count, size_bytes
        for key, size in objects:
            count, size_bytes = count + 1, size_bytes + size
            yield f"{size}\t{_escape(key)}\n".encode()

    key = keys.objects_key(timestamp)
    stream = DigestReader(LinesReader(lines()))
    store.put(key, stream, size_bytes=None, content_type="text/tab-separated-values", sha256=None)
    return ObjectList(key, stream.sha256, count, size_bytes)


def read_list(store: ObjectStore, listed: ObjectList) -> Iterator[Sized]:
    """The objects of a backup. Raises BackupUnusable when the list is missing or damaged, at its end at the latest."""
    try:
        with store.open(listed.key) as stream:
            digest = DigestReader(stream)
            for line in read_lines(digest):
                size, separator, key = line.decode().partition("\t")
                if not separator:
                    raise BackupUnusable(f"{listed.key} is damaged: a line has no key")
                yield _unescape(key), int(size)
    except ObjectMissing:
        raise BackupUnusable(f"{store.location(listed.key)} is missing: the list of the backup's objects") from None
    except ValueError as error:
        raise BackupUnusable(f"{listed.key} is damaged: {error}") from None
    if digest.sha256 != listed.sha256:
        raise BackupUnusable(f"{listed.key} is damaged: its SHA-256 is {digest.sha256} instead of {listed.sha256}")


def compare(listed: Iterable[Sized], store: ObjectStore, advance: Callable[[int], None] = lambda _: None) -> Compared:
    """Compare a list with what the store holds, by one pass over both."""
    found = Compared()
    held = list_objects(store)
    key, size_bytes = next(held, ("", -1))
    for wanted, expected in listed:
        while size_bytes >= 0 and _order(key) < _order(wanted):
            key, size_bytes = next(held, ("", -1))
        found.objects += 1
        advance(1)
        if size_bytes < 0 or key != wanted:
            found.missing += 1
            found.note(wanted, "is missing")
        elif size_bytes != expected:
            found.changed += 1
            found.note(wanted, f"has {size_bytes} bytes instead of {expected}")
    return found


def _order(key: str) -> bytes:
    return key.encode()


def _escape(key: str) -> str:
    return key.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(key: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in key.split("\\\\"))
