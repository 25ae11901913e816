"""The writer: document, chunks, operation log, the sinks' states and outbox rows in the caller's transaction.

Invariant 1: whatever happens to that transaction happens to all of it; the writer never commits.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from producer import desired, event_parts, plan, statements, stored, unpublished
from producer.documents import Chunk, Document
from producer.errors import FileRequired, InvalidDocument, Problem, UnknownDocument, VectorRequired, WrongModel
from producer.plan import Plan
from producer.receipts import Receipt
from producer.stored import Stored
from producer.validation import check
from schema import limits
from schema.database.tables import embedding_model
from schema.events.events import DELETED, MSGPACK, UPSERTED, ChunkRow
from schema.events.identity import doc_id_error


class Writer:
    """Writes documents whose vectors come from `model`, which must be the model that the system was initialised with.

    `operator` is who the operation log names. Thread-safe: it keeps nothing but its settings.
    """

    def __init__(self, model: str, *, operator: str = "unknown", content_type: str = MSGPACK) -> None:
        self._model = model
        self._operator = operator[: limits.OPERATOR_CHARACTERS]
        self._content_type = content_type
        self._dimension = 0  # read from the database once

    def upsert(
        self, connection: Connection, document: Document, *, headers: Mapping[str, str] | None = None
    ) -> Receipt:
        """Write a document's whole state as its next version; see `upsert_many`."""
        return self.upsert_many(connection, [document], headers=headers)[0]

    def upsert_many(
        self, connection: Connection, documents: Sequence[Document], *, headers: Mapping[str, str] | None = None
    ) -> list[Receipt]:
        """Write documents in multi-row statements, a receipt each; one that is unchanged is left alone.

        `headers` (for instance `traceparent`) travel with the events. Raises InvalidDocument, VectorRequired,
        FileRequired, WrongModel before anything is written, WriteConflict when the transaction must be run again.
        """
        dimension = self.dimension(connection)
        vectors = [check(document, self._model, dimension) for document in documents]
        _refuse_twins([document.doc_id for document in documents])
        before = stored.lock(connection, [document.doc_id for document in documents])
        plans = [
            _plan(document, some, before.get(document.doc_id))
            for document, some in zip(documents, vectors, strict=True)
        ]
        self._write(connection, plans, before, headers)
        return self._receipts(connection, plans, before)

    def delete(self, connection: Connection, doc_id: str) -> Receipt:
        """Delete a document from every store; raises UnknownDocument. See `delete_many`."""
        return self.delete_many(connection, [doc_id])[0]

    def delete_many(self, connection: Connection, doc_ids: Sequence[str]) -> list[Receipt]:
        """Delete documents; their rows stay as tombstones. One deleted before is left alone."""
        before = _existing(connection, doc_ids)
        _refuse_twins(doc_ids)
        plans = [plan.delete(doc_id, before[doc_id]) for doc_id in doc_ids]
        changed = [some for some in plans if some.changed]
        if changed:
            for some in changed:
                statements.change_chunks(connection, some)
                statements.update_document(connection, some, deleting=True)
            statements.write_files(connection, changed)
            self._log(connection, changed, before, "DELETE")
            events = (
                (some, DELETED, payload)
                for some in changed
                for payload in event_parts.deleted(some, self._content_type)
            )
            statements.append_events(connection, events, self._content_type, None)
        return self._receipts(connection, plans, before)

    def resync(self, connection: Connection, doc_id: str, chunks: Sequence[Chunk] = ()) -> Receipt:
        """Send a document's current state again as its next version (the SYNC operation).

        Chunks that every sink is known to hold travel without their vectors, unless `chunks` gives them. Vectors that a
        sink may lack are taken from `chunks` or from events that wait in the outbox. Raises UnknownDocument (also for
        a deleted document), VectorRequired, FileRequired.
        """
        before = _existing(connection, [doc_id])
        current = before[doc_id]
        if current.document.deleted_at is not None:
            raise UnknownDocument([doc_id])
        dimension = self.dimension(connection)
        content, files = unpublished.content(connection, doc_id)
        if chunks:
            content |= self._given(current, chunks, dimension)
        metadata = {name: getattr(current.document, name) for name in desired.DOCUMENT_COLUMNS}
        some = plan.upsert(
            doc_id,
            metadata,
            desired.stored_chunks(current, content),
            desired.stored_files(current, files),
            current,
            resend=True,
        )
        self._write(connection, [some], before, None, operation="SYNC")
        return self._receipts(connection, [some], before)[0]

    def dimension(self, connection: Connection) -> int:
        """The system's vector dimension; raises WrongModel unless the system's model is this writer's."""
        if not self._dimension:
            row = connection.execute(select(embedding_model.c.name, embedding_model.c.dimension)).one_or_none()
            if row is None:
                raise WrongModel("the system has no embedding model yet; run: rag-outbox init")
            if row.name != self._model:
                raise WrongModel(f"the system's vectors come from {row.name!r}, these from {self._model!r}")
            self._dimension = row.dimension
        return self._dimension

    def _given(self, current: Stored, chunks: Sequence[Chunk], dimension: int) -> dict[str, ChunkRow]:
        row = current.document
        document = Document(doc_id=row.doc_id, title=row.title, source_type=row.source_type, chunks=chunks)
        given = desired.chunks(document, check(document, self._model, dimension))
        if unknown := [at for at, chunk in enumerate(given) if chunk.chunk_id not in current.chunks]:
            raise InvalidDocument(row.doc_id, [Problem(f"chunks[{at}]", "is not in the document") for at in unknown])
        return {
            chunk.chunk_id: ChunkRow(
                chunk_id=chunk.chunk_id,
                content_hash=chunk.content_hash,
                content=chunk.content or "",
                vector=chunk.vector,
                sparse=chunk.sparse,
            )
            for chunk in given
            if chunk.vector is not None
        }

    def _write(
        self,
        connection: Connection,
        plans: Sequence[Plan],
        before: Mapping[str, Stored],
        headers: Mapping[str, str] | None,
        operation: str | None = None,
    ) -> None:
        changed = [some for some in plans if some.changed]
        _require_complete(changed)
        if not changed:
            return
        events = (
            (some, UPSERTED, payload)
            for some in changed
            for payload in event_parts.upserted(some, self._model, self._dimension, self._content_type)
        )
        statements.insert_documents(connection, [some for some in changed if some.doc_id not in before])
        for some in changed:
            if some.doc_id in before:
                statements.update_document(connection, some, deleting=False)
                statements.change_chunks(connection, some)
        statements.insert_chunks(connection, changed)
        statements.write_files(connection, changed)
        self._log(connection, changed, before, operation)
        statements.append_events(connection, events, self._content_type, headers)

    def _log(
        self, connection: Connection, changed: Sequence[Plan], before: Mapping[str, Stored], operation: str | None
    ) -> None:
        entries = []
        for some in changed:
            old = before[some.doc_id].document if some.doc_id in before else None
            entries.append((operation or ("INSERT" if old is None else "UPDATE"), some.doc_id, old))
        statements.log_operations(connection, entries, self._operator)

    @staticmethod
    def _receipts(connection: Connection, plans: Sequence[Plan], before: Mapping[str, Stored]) -> list[Receipt]:
        return [
            Receipt(
                some.doc_id,
                some.version if some.changed else before[some.doc_id].document.version,
                some.changed,
                connection.engine,
            )
            for some in plans
        ]


def _plan(document: Document, vectors: Sequence[bytes | None], before: Stored | None) -> Plan:
    columns = desired.document_columns(document, before)
    files = desired.files(document, columns["oss_key"])
    return plan.upsert(document.doc_id, columns, desired.chunks(document, vectors), files, before)


def _existing(connection: Connection, doc_ids: Sequence[str]) -> dict[str, Stored]:
    before = stored.lock(connection, [doc_id for doc_id in doc_ids if doc_id_error(doc_id) is None])
    if unknown := [doc_id for doc_id in doc_ids if doc_id_error(doc_id) is not None or doc_id not in before]:
        raise UnknownDocument(unknown)
    return before


def _refuse_twins(doc_ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for doc_id in doc_ids:
        if doc_id in seen:
            raise InvalidDocument(doc_id, [Problem("doc_id", "stands twice in one batch")])
        seen.add(doc_id)


def _require_complete(plans: Sequence[Plan]) -> None:
    if missing := {some.doc_id: some.missing_vectors for some in plans if some.missing_vectors}:
        raise VectorRequired(missing)
    for some in plans:
        if some.missing_file is not None:
            raise FileRequired(some.doc_id, some.missing_file)
