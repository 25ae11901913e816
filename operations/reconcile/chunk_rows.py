"""Milvus against the chunks, both ways: slices of the chunk ids, read from both and compared by key."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import Engine

from operations.reconcile.confirm_rows import confirm_rows
from operations.reconcile.doubled_rows import find_doubled
from operations.reconcile.expected_rows import packed_statement
from operations.reconcile.findings import Findings
from operations.reconcile.milvus_rows import MilvusRows, Packed
from operations.reconcile.pace import Pace
from operations.reconcile.packed_rows import TEXT_END, agreeing_versions, document_of, key_of, read_packed
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
        read=read_packed,
    )
    candidates: dict[str, set[str]] = {}
    done, unconfirmed = after, 0
    for one, found in _read_ahead(slices, rows):
        pace.spend(max(len(one.rows), len(found)))
        findings.compared[rows.sink] += max(len(one.rows), len(found))
        if scope.digests:
            findings.add(find_doubled(rows, one, found))
        candidates |= compare_slice(one.rows, found)
        done, unconfirmed = one.upto or done, unconfirmed + 1
        if len(candidates) >= _CANDIDATES or unconfirmed >= _SLICES:
            findings.add(confirm_rows(engine, rows, candidates))
            candidates = {}
        if not candidates:
            unconfirmed = 0
            yield done
    findings.add(confirm_rows(engine, rows, candidates))


def compare_slice(texts: Iterable[str], found: Packed) -> dict[str, set[str]]:
    """Chunk ids that may differ, with the documents that either store says they belong to. Empties `found`."""
    candidates: dict[str, set[str]] = {}
    unsettled: set[str] = set()
    agreeing: dict[str, range] = {}  # most chunks of a slice have the same numbers
    for text in texts:
        values, _, numbers = text.rpartition(TEXT_END)
        if not values:
            unsettled.add(text)
            continue
        if (versions := agreeing.get(numbers)) is None:
            versions = agreeing[numbers] = agreeing_versions(numbers)
        if found.pop(values, -1) not in versions:
            candidates[key_of(values)] = {document_of(values)}
    for values in found:
        if (chunk_id := key_of(values)) not in unsettled:
            candidates.setdefault(chunk_id, set()).add(document_of(values))
    return candidates


def _read_ahead(slices: Iterator[Slice], rows: MilvusRows) -> Iterator[tuple[Slice, Packed]]:
    """The slices in order, each with the rows that Milvus has of it."""
    waiting: deque[tuple[Slice, Future[Packed]]] = deque()
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
