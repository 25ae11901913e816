"""The archive of vectors against the living chunks, both ways: slices of the documents.

An object's key names the version of the event that it came with. When objects of all versions that chunks name are
there, the archive counts as whole. A refill archives vectors under a later version: then the objects are read.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Engine, and_, select

from consumers import marks
from consumers.marks import Known
from consumers.minio.translate import translate_errors
from operations.reconcile.confirm_rows import is_settled
from operations.reconcile.difference import Difference
from operations.reconcile.findings import Findings
from operations.reconcile.listing import Listing
from operations.reconcile.pace import Pace
from operations.reconcile.scope import Scope
from operations.reconcile.slices import read_slices
from schema import archive
from schema.batches import bounded
from schema.database.connection import reading, snapshot
from schema.database.statements import IDS_PER_STATEMENT, select_for_ids
from schema.database.tables import chunks, documents, sink_states
from schema.object_store import layout
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_PREFIX = layout.embeddings_prefix("").rstrip("/") + "/"
_CANDIDATES = 100  # confirmed together
_THREADS = 8

Chunks = Mapping[str, archive.Wanted]  # by chunk id


def compare_archives(
    engine: Engine, store: ObjectStore, scope: Scope, findings: Findings, pace: Pace, after: str = ""
) -> Iterator[str]:
    """Yields the doc_id up to which everything is compared and confirmed."""
    state = sink_states.c
    joined = documents.outerjoin(sink_states, and_(state.doc_id == documents.c.doc_id, state.sink == MINIO))
    settled = and_(state.state == "applied", state.applied_version == documents.c.version)
    statement = select(documents.c.doc_id, settled).select_from(joined).prefix_with("STRAIGHT_JOIN", dialect="mysql")
    rows = scope.slice_rows
    listing = Listing(store, _PREFIX)
    for one in read_slices(engine, statement, documents.c.doc_id, rows=rows, sample=scope.sample, after=after):
        wanted = {doc_id: bool(is_settled) for doc_id, is_settled in map(tuple, one.rows)}
        held: dict[str, set[int]] = defaultdict(set)
        unknown: set[str] = set()
        for keys in bounded(_list(store, listing, one.after, one.upto), IDS_PER_STATEMENT):
            pace.spend(len(keys))
            findings.compared[MINIO] += len(keys)
            for key in keys:
                doc_id = _doc_id_of(key)
                if doc_id in wanted:
                    held[doc_id].add(layout.embeddings_version(key))
                else:
                    unknown.add(doc_id)
            if len(unknown) >= _CANDIDATES:
                findings.add(_confirm(engine, store, unknown))
                unknown.clear()
        named = _load_versions(engine, [doc_id for doc_id, is_settled in wanted.items() if is_settled])
        odd = {doc_id for doc_id, versions in named.items() if versions - held[doc_id]}
        odd |= {doc_id for doc_id, is_settled in wanted.items() if is_settled and held[doc_id] and not named[doc_id]}
        findings.add(_confirm(engine, store, odd | unknown))
        if one.upto is not None:
            yield one.upto


def _list(store: ObjectStore, listing: Listing, after: str, upto: str | None) -> Iterator[str]:
    """The keys of all documents d with `after` < d <= `upto`.

    Keys are ordered as doc_ids with a slash behind them: `a-1` comes before `a`. So the documents that `upto` begins
    with, itself included, are listed one by one.
    """
    begins = [] if upto is None else [upto[:length] for length in range(1, len(upto) + 1)]
    for key in listing.read(_PREFIX + after, None if upto is None else _PREFIX + upto):
        doc_id = _doc_id_of(key)
        if doc_id > after and (upto is None or (doc_id <= upto and doc_id not in begins)):
            yield key
    with translate_errors():
        for doc_id in begins:
            if doc_id > after:
                yield from store.keys(layout.embeddings_prefix(doc_id))


def _doc_id_of(key: str) -> str:
    return key.removeprefix(_PREFIX).partition("/")[0]


def _load_versions(engine: Engine, doc_ids: Sequence[str]) -> Mapping[str, set[int]]:
    named: dict[str, set[int]] = defaultdict(set)
    columns = select(chunks.c.doc_id, chunks.c.vector_version).distinct()
    with reading(engine) as connection:
        for doc_id, version in select_for_ids(connection, columns, chunks.c.doc_id, doc_ids):
            named[doc_id].add(version)
    return named


@dataclass(frozen=True)
class _View:
    known: Mapping[str, Known]
    chunks: Mapping[str, Chunks]


def _confirm(engine: Engine, store: ObjectStore, candidates: Collection[str]) -> Iterator[Difference]:
    """See `confirm_rows` for why this order is right."""
    for some in bounded(sorted(candidates), _CANDIDATES):
        before = _look(engine, some)

        def judge(doc_id: str, view: _View = before) -> list[Difference]:
            return list(_judge(store, doc_id, view.known.get(doc_id), view.chunks.get(doc_id, {})))

        with translate_errors(), ThreadPoolExecutor(_THREADS, thread_name_prefix="reconcile") as pool:
            found = list(pool.map(judge, some))
        if not any(found):
            continue
        after = _look(engine, some)
        for doc_id, differences in zip(some, found, strict=True):
            is_same = before.known.get(doc_id) == after.known.get(doc_id)
            if is_same and before.chunks.get(doc_id) == after.chunks.get(doc_id):
                yield from differences


def _look(engine: Engine, doc_ids: Sequence[str]) -> _View:
    names = ("doc_id", "chunk_id", "content_hash", "vector_version", "vector_digest")
    columns = [chunks.c[name] for name in names]
    of_document: dict[str, dict[str, archive.Wanted]] = defaultdict(dict)
    with snapshot(engine) as connection:
        known = marks.load_known(connection, MINIO, doc_ids)
        for row in connection.execute(select(*columns).where(chunks.c.doc_id.in_(doc_ids))):
            wanted = archive.Wanted(row.content_hash, row.vector_version, row.vector_digest)
            of_document[row.doc_id][row.chunk_id] = wanted
    return _View(known, of_document)


def _judge(store: ObjectStore, doc_id: str, known: Known | None, wanted: Chunks) -> Iterator[Difference]:
    if known is not None and not is_settled(known):
        return
    held = archive.keys(store, doc_id)
    if not wanted:
        reason = "no such document" if known is None else "the document has no chunks"
        for key in held:
            yield Difference(MINIO, "orphaned", doc_id, key, reason, layout.embeddings_version(key))
    elif {one.version for one in wanted.values()} - {layout.embeddings_version(key) for key in held}:
        lacking = find_lacking(store, doc_id, wanted)
        if lacking:
            yield describe_lacking(doc_id, lacking)


def find_lacking(store: ObjectStore, doc_id: str, wanted: Chunks) -> list[str]:
    """The chunks whose vectors no object of the archive holds; it reads all of them."""
    found = {row.chunk_id for row in archive.read_vectors(store, doc_id, wanted)}
    return sorted(wanted.keys() - found)


def describe_lacking(doc_id: str, lacking: Sequence[str]) -> Difference:
    detail = f"the archive lacks the vectors of {len(lacking)} chunks, one is {lacking[0]}"
    return Difference(MINIO, "missing", doc_id, layout.embeddings_prefix(doc_id), detail)
