"""The vectors in Milvus against those in the archive, document by document: the only comparison that reads vectors.

Where the archive has the vectors of another model than the instance, it only looks whether the archive is whole.
"""

from collections.abc import Iterator, Mapping

from sqlalchemy import Engine, select

from consumers import marks
from consumers.marks import Known
from consumers.minio.translate import translate_errors
from operations import sinks
from operations.reconcile.archives import Chunks, describe_lacking
from operations.reconcile.confirm_rows import is_settled
from operations.reconcile.difference import Difference
from operations.reconcile.findings import Findings
from operations.reconcile.milvus_rows import MilvusRows
from operations.reconcile.pace import Pace
from operations.reconcile.scope import Scope
from operations.reconcile.slices import read_slices
from schema import archive
from schema.batches import bounded
from schema.database.connection import snapshot
from schema.database.history import document_model
from schema.database.tables import chunks, documents
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_DOCUMENTS = 100  # per slice
_ROWS = 500
_BYTES = 16 * 1024 * 1024

View = tuple[Mapping[str, Known], Mapping[str, Known], Chunks, str]  # in Milvus, in the object store; the model


def compare_vectors(
    engine: Engine, rows: MilvusRows, store: ObjectStore, scope: Scope, findings: Findings, pace: Pace, after: str = ""
) -> Iterator[str]:
    """Yields the doc_id up to which everything is compared."""
    model, _ = sinks.read_model(engine, rows.sink)
    statement = select(documents.c.doc_id)
    for one in read_slices(engine, statement, documents.c.doc_id, rows=_DOCUMENTS, sample=scope.sample, after=after):
        for row in one.rows:
            pace.spend(0)
            before = _look(engine, rows.sink, row.doc_id)
            if not all(is_settled(known.get(row.doc_id)) for known in before[:2]):
                continue
            with translate_errors():
                same_model = rows if before[3] == model else None
                found = list(_compare(same_model, store, row.doc_id, before[2], findings, pace))
            if found and _look(engine, rows.sink, row.doc_id) == before:
                findings.add(found)
        if one.upto is not None:
            yield one.upto


def _compare(
    rows: MilvusRows | None, store: ObjectStore, doc_id: str, wanted: Chunks, findings: Findings, pace: Pace
) -> Iterator[Difference]:
    """`rows` are None if their vectors come from another model."""
    lacking = dict.fromkeys(wanted)
    archived = archive.read_vectors(store, doc_id, wanted)
    for some in bounded(archived, _ROWS, _BYTES, lambda row: len(row.vector)):
        pace.spend(len(some))
        findings.compared["vectors"] += len(some)
        vectors = {row.chunk_id: row.vector for row in some}
        found = {} if rows is None else rows.read_vectors(list(vectors))
        for chunk_id, vector in vectors.items():
            del lacking[chunk_id]
            if rows is not None and found.get(chunk_id, vector) != vector:  # a missing row is found by its key
                yield Difference(rows.sink, "stale", doc_id, chunk_id, "its vector is not that of the archive")
    if lacking:
        yield describe_lacking(doc_id, sorted(lacking))


def _look(engine: Engine, sink: str, doc_id: str) -> View:
    columns = [chunks.c[name] for name in ("chunk_id", "content_hash", "vector_version", "vector_digest")]
    with snapshot(engine) as connection:
        in_milvus, in_store = (marks.load_known(connection, name, [doc_id]) for name in (sink, MINIO))
        rows = connection.execute(select(*columns).where(chunks.c.doc_id == doc_id))
        model = connection.execute(select(document_model()).where(documents.c.doc_id == doc_id)).scalar_one_or_none()
        return (
            in_milvus,
            in_store,
            {row.chunk_id: archive.Wanted(row.content_hash, row.vector_version, row.vector_digest) for row in rows},
            model or "",
        )
