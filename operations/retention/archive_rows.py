"""Which rows of a document's archive its chunks need, and the objects without the others.

Of each chunk the newest copy is kept. Two processes that tidy the same archive agree on it: a rewritten object comes
after the one that it was made from, so that nobody removes the last copy.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schema import archive
from schema.archive import Wanted
from schema.events.events import ChunkRow
from schema.object_store import layout
from schema.object_store.port import ObjectStore


class ArchiveMoved(Exception):
    """Raised when an object is gone that was just listed: another process works on this archive; try again later."""


@dataclass(frozen=True)
class Inspection:
    """`needed` maps each object to the chunks whose copy it keeps; `rows` to the number of its rows."""

    needed: Mapping[str, frozenset[str]]
    rows: Mapping[str, int]
    lacking: frozenset[str]  # chunks that no object has

    def to_rewrite(self) -> list[str]:
        """The objects with rows that nobody needs; of superseded ones, those with a row that somebody needs."""
        return [key for key, needed in self.needed.items() if _is_mixed(key, len(needed), self.rows[key])]


@dataclass
class _Copies:
    """The chunks whose copy is not chosen yet, and the newest copy of those whose vector is not known exactly."""

    missing: dict[str, Wanted]
    older: dict[str, str] = field(default_factory=dict)  # chunk id → object


def inspect(store: ObjectStore, keys: Sequence[str], wanted: Mapping[str, Wanted]) -> Inspection:
    """Read the objects, one at a time, and choose a copy for each chunk. Raises ArchiveMoved."""
    copies = _Copies(dict(wanted))
    needed: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for key in sorted(keys, key=layout.embeddings_order, reverse=True):
        rows = _read(store, key)
        if rows is None:
            continue  # it is left as it is
        counts[key] = len(rows)
        needed[key] = {row.chunk_id for row in rows if _takes(copies, key, row)}
    for chunk_id, key in copies.older.items():
        if chunk_id in copies.missing:
            needed[key].add(chunk_id)
            del copies.missing[chunk_id]
    return Inspection({key: frozenset(ids) for key, ids in needed.items()}, counts, frozenset(copies.missing))


def split(store: ObjectStore, key: str, needed: frozenset[str], *, keeps_others: bool) -> Iterator[str]:
    """Write the needed rows to a new object and, with `keeps_others`, the other rows to a superseded one.

    Yields the keys of the new objects. The old one stays. Raises ArchiveMoved.
    """
    rows = _read(store, key) or []
    unique = uuid.uuid4().hex[:8]
    others = [row for row in rows if row.chunk_id not in needed]
    if others and keeps_others and not layout.is_superseded_key(key):
        new = layout.superseded_key(key, unique)
        archive.put(store, new, others)
        yield new
    kept = _without_doubles(row for row in rows if row.chunk_id in needed)
    if kept:
        new = layout.rewritten_key(key, unique)
        archive.put(store, new, kept)
        yield new


def _takes(copies: _Copies, key: str, row: ChunkRow) -> bool:
    """Whether this is the copy of its chunk. A vector that is not known exactly is that of the chunk's own version."""
    wanted = copies.missing.get(row.chunk_id)
    if wanted is None or not wanted.is_met_by(row):
        return False
    if wanted.vector_digest is None and wanted.version != layout.embeddings_version(key):
        copies.older.setdefault(row.chunk_id, key)
        return False
    del copies.missing[row.chunk_id]
    return True


def _is_mixed(key: str, needed: int, rows: int) -> bool:
    return needed > 0 if layout.is_superseded_key(key) else needed < rows


def _read(store: ObjectStore, key: str) -> list[ChunkRow] | None:
    """None if the object is damaged or empty. Raises ArchiveMoved."""
    rows = archive.read_rows(store, key)
    if rows is None:
        raise ArchiveMoved(key)
    return rows or None


def _without_doubles(rows: Iterator[ChunkRow]) -> list[ChunkRow]:
    return list({row.chunk_id: row for row in rows}.values())
