"""Look at rows a second time, by key: the newest in Milvus, and in the database before and after.

A consumer writes to Milvus before it marks, and a writer commits before a consumer writes. So a document whose
version, history and marks are the same before and after was not written to Milvus in between, and what Milvus shows
is what it holds for good. Otherwise the candidate is dropped: the next run looks at it.
"""

from collections.abc import Collection, Iterator, Mapping

from sqlalchemy import Engine

from consumers import marks
from consumers.marks import Known
from operations.reconcile.difference import Difference
from operations.reconcile.expected_rows import Expected, load_expected
from operations.reconcile.milvus_rows import FIELDS, Found, MilvusRows
from schema.batches import bounded
from schema.database.connection import snapshot

_KEYS_PER_QUERY = 500

View = tuple[Mapping[str, Expected], Mapping[str, Known]]


def confirm_rows(engine: Engine, rows: MilvusRows, candidates: Mapping[str, Collection[str]]) -> Iterator[Difference]:
    """`candidates` maps chunk ids to the documents that they may belong to."""
    for some in bounded(sorted(candidates), _KEYS_PER_QUERY):
        doc_ids = {doc_id for chunk_id in some for doc_id in candidates[chunk_id]}
        before = _look(engine, rows.sink, some, doc_ids)
        found = rows.read_keys(some)
        after = _look(engine, rows.sink, some, doc_ids)
        held = {row[0]: row for row in found}
        for chunk_id in some:
            if _are_equal(before, after, chunk_id, candidates[chunk_id]):
                yield from _judge(rows.sink, chunk_id, candidates[chunk_id], before, held.get(chunk_id))


def is_settled(known: Known | None) -> bool:
    """Whether the sink holds the document's version, by the marks."""
    return known is not None and not known.is_absent and known.applied_version == known.version


def _look(engine: Engine, sink: str, chunk_ids: Collection[str], doc_ids: Collection[str]) -> View:
    with snapshot(engine) as connection:
        return load_expected(connection, chunk_ids, sink), marks.load_known(connection, sink, sorted(doc_ids))


def _are_equal(before: View, after: View, chunk_id: str, doc_ids: Collection[str]) -> bool:
    return before[0].get(chunk_id) == after[0].get(chunk_id) and all(
        before[1].get(doc_id) == after[1].get(doc_id) for doc_id in doc_ids
    )


def _judge(sink: str, chunk_id: str, doc_ids: Collection[str], view: View, row: Found | None) -> Iterator[Difference]:
    expected = view[0].get(chunk_id)
    if expected is None:
        if row is None or row[1] not in doc_ids:
            return
        if orphan := _describe_orphan(view[1].get(row[1])):
            yield Difference(sink, "orphaned", row[1], chunk_id, orphan, row[-1])
        return
    if not is_settled(view[1].get(expected.doc_id)):
        return
    if row is None:
        yield Difference(sink, "missing", expected.doc_id, chunk_id, f"row of version {expected.row_version}")
        return
    if wrong := _describe_stale(expected, row):
        yield Difference(sink, "stale", expected.doc_id, chunk_id, wrong)
    elif not expected.is_marked:
        yield Difference(sink, "mismarked", expected.doc_id, chunk_id, "Milvus holds the row, and it is not marked")


def _describe_orphan(known: Known | None) -> str | None:
    if known is None:
        return "no such document"
    return "the document has no such chunk" if is_settled(known) else None


def _describe_stale(expected: Expected, row: Found) -> str:
    wrong = [
        f"{name} is {found!r} instead of {wanted!r}"
        for name, found, wanted in zip(FIELDS[1:-1], row[1:-1], expected.labels, strict=True)
        if found != wanted
    ]
    if not expected.row_version <= row[-1] <= expected.version:
        wrong.append(f"doc_version is {row[-1]} instead of {expected.row_version} to {expected.version}")
    return ", ".join(wrong)
