"""Milvus against the chunks, both ways: slices of the chunk ids, read from both and compared by key."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import Engine

from operations.reconcile.confirm_rows import confirm_rows
from operations.reconcile.doubled_rows import find_doubled
from operations.reconcile.expected_rows import SEPARATOR, agrees, packed_statement
from operations.reconcile.findings import Findings
from operations.reconcile.milvus_rows import Found, MilvusRows
from operations.reconcile.pace import Pace
from operations.reconcile.scope import Scope
from operations.reconcile.slices import Slice, read_slices
from schema.database.tables import chunks

_AHEAD = 3  # slices that Milvus is asked for while others are compared
_CANDIDATES = 500  # confirmed together
_SLICES = 10  # after which the candidates are confirmed however few they are, so that a checkpoint is possible


def compare_rows(
    engine: Engine, rows: MilvusRows, scope: Scope, findings: Findings, pace: Pace, after: str = ""
) -> Iterator[str]:
    """Yields the chunk id up to which everything is compared and confirmed."""
    slices = read_slices(
        engine,
        packed_statement(engine.dialect.name, rows.sink),
        chunks.c.chunk_id,
        rows=scope.slice_rows,
        sample=scope.sample,
        after=after,
    )
    candidates: dict[str, set[str]] = {}
    done, unconfirmed = after, 0
    for one, found in _read_ahead(slices, rows):
        pace.spend(max(len(one.rows), len(found)))
        findings.compared[rows.sink] += max(len(one.rows), len(found))
        candidates |= compare_slice(one, found)
        if scope.digests:
            findings.add(find_doubled(rows, one, found))
        done, unconfirmed = one.upto or done, unconfirmed + 1
        if len(candidates) >= _CANDIDATES or unconfirmed >= _SLICES:
            findings.add(confirm_rows(engine, rows, candidates))
            candidates = {}
        if not candidates:
            unconfirmed = 0
            yield done
    findings.add(confirm_rows(engine, rows, candidates))


def compare_slice(one: Slice, found: list[Found]) -> dict[str, set[str]]:
    """Chunk ids that may differ, with the documents that either store says they belong to."""
    held: dict[str, Found] = {row[0]: row for row in found}
    candidates: dict[str, set[str]] = {}
    for chunk_id, packed in map(tuple, one.rows):
        row = held.pop(chunk_id, None)
        if packed is not None and (row is None or not agrees(packed, row)):
            doc_id = packed.partition(SEPARATOR)[0]
            candidates[chunk_id] = {doc_id} if row is None else {doc_id, row[1]}
    return candidates | {chunk_id: {row[1]} for chunk_id, row in held.items()}


def _read_ahead(slices: Iterator[Slice], rows: MilvusRows) -> Iterator[tuple[Slice, list[Found]]]:
    """The slices in order, each with the rows that Milvus has of it."""
    waiting: deque[tuple[Slice, Future[list[Found]]]] = deque()
    with ThreadPoolExecutor(_AHEAD + 1, thread_name_prefix="reconcile") as pool:
        following = pool.submit(next, slices, None)
        while (one := following.result()) is not None:
            following = pool.submit(next, slices, None)
            waiting.append((one, pool.submit(rows.read_range, one.after, one.upto)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
