"""Rows with the same primary key: Milvus takes them from an insert, queries show one of them, a count shows all.

A search may find the wrong one. Our sink only upserts, so they come from another client or from a fault of Milvus.
"""

from collections.abc import Iterator, Sequence

from operations.reconcile.difference import Difference
from operations.reconcile.milvus_rows import MilvusRows, Packed
from operations.reconcile.packed_rows import key_of
from operations.reconcile.slices import Slice
from schema.batches import bounded

_KEYS_PER_QUERY = 1_000


def find_doubled(rows: MilvusRows, one: Slice, found: Packed) -> Iterator[Difference]:
    """Count the slice, and halve the groups of keys that count more rows than keys."""
    if rows.count_range(one.after, one.upto) <= len(found):
        return
    for some in bounded(sorted(map(key_of, found)), _KEYS_PER_QUERY):
        yield from _halve(rows, some)


def _halve(rows: MilvusRows, keys: Sequence[str]) -> Iterator[Difference]:
    count = rows.count_keys(keys)
    if count <= len(keys):
        return
    if len(keys) == 1:
        doc_id = "".join(row[1] for row in rows.read_keys(keys))
        if (again := rows.count_keys(keys)) > 1:
            yield Difference(rows.sink, "doubled", doc_id, keys[0], f"{again} rows with this key")
        return
    middle = len(keys) // 2
    yield from _halve(rows, keys[:middle])
    yield from _halve(rows, keys[middle:])
