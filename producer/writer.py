"""The writer: document, chunks, operation log, sink states and outbox rows in the caller's transaction.

Invariant 1: all of it commits or rolls back with that transaction; the writer never commits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from producer import desired, statements
from producer.desired import DesiredChunk
from producer.documents import Chunk, Document
from producer.errors import FileRequired, InvalidDocument, Problem, UnknownDocument, VectorRequired, WrongModel
from producer.event_parts import encode_event
from producer.files import DocumentFile
from producer.metrics import WriterMetrics
from producer.plan import Operation, Plan, plan_delete, plan_upsert
from producer.receipts import Receipt
from producer.relabel import plan_relabel
from producer.stored import LockedDocuments, StoredDocument, lock_documents
from producer.unpublished import read_unpublished
from producer.validation import validate, validate_metadata
from schema import limits
from schema.database.history import Identity, NotInitialised, read_identity
from schema.events.events import MSGPACK
from schema.events.identity import doc_id_error

P = ParamSpec("P")
T = TypeVar("T")


def _observed(method: "Callable[Concatenate[Writer, P], T]") -> "Callable[Concatenate[Writer, P], T]":
    """Measure and trace the calls of a method, where the writer was asked to."""

    @wraps(method)
    def call(writer: "Writer", /, *arguments: P.args, **options: P.kwargs) -> T:
        with nullcontext() if writer._metrics is None else writer._metrics.call():
            return method(writer, *arguments, **options)

    return call


class Writer:
    """Writes documents whose vectors come from `model`, which must be the model that the system was initialised with.

    `operator` is the name in the operation log. `metrics` counts what is written, in your service's own registry. With
    `tracing`, the events carry on the trace of the active OpenTelemetry span (extra `otel`).
    Thread-safe: it keeps nothing but its settings.
    """

    def __init__(
        self,
        model: str,
        *,
        operator: str = "unknown",
        content_type: str = MSGPACK,
        metrics: WriterMetrics | None = None,
        tracing: bool = False,
    ) -> None:
        self._model = model
        self._operator = operator[: limits.OPERATOR_CHARACTERS]
        self._content_type = content_type
        self._metrics = metrics
        self._trace_headers = _trace_headers() if tracing else dict

    def upsert(
        self, connection: Connection, document: Document, *, headers: Mapping[str, str] | None = None
    ) -> Receipt:
        """Write a document's whole state as its next version; see `upsert_many`."""
        return self.upsert_many(connection, [document], headers=headers)[0]

    @_observed
    def upsert_many(
        self, connection: Connection, documents: Sequence[Document], *, headers: Mapping[str, str] | None = None
    ) -> list[Receipt]:
        """Write documents in multi-row statements and return a receipt per document. Skips unchanged documents.

        `headers` (for instance `traceparent`) are sent with the events. Raises InvalidDocument, VectorRequired,
        FileRequired or WrongModel before anything is written, WriteConflict if the transaction must be run again.
        """
        locked = self._lock(connection, [getattr(document, "doc_id", None) for document in documents])
        identity = locked.identity
        vectors = [validate(document, self._model, identity.dimension) for document in documents]
        doc_ids = [document.doc_id for document in documents]
        _refuse_duplicates(doc_ids)
        plans = [
            _plan_document(document, document_vectors, locked, identity.history_id)
            for document, document_vectors in zip(documents, vectors, strict=True)
        ]
        self._write(connection, locked, plans, headers)
        return _receipts(connection, doc_ids, plans, locked.stored)

    def delete(self, connection: Connection, doc_id: str) -> Receipt:
        """Delete a document from every store; see `delete_many`."""
        return self.delete_many(connection, [doc_id])[0]

    @_observed
    def delete_many(self, connection: Connection, doc_ids: Sequence[str]) -> list[Receipt]:
        """Delete documents and return a receipt per document; their rows stay as tombstones.

        Skips documents that are deleted already. Raises UnknownDocument before anything is written.
        """
        locked = self._lock_existing(connection, doc_ids)
        _refuse_duplicates(doc_ids)
        plans = [plan_delete(locked.stored[doc_id], locked.identity.history_id) for doc_id in doc_ids]
        self._write(connection, locked, plans)
        return _receipts(connection, doc_ids, plans, locked.stored)

    @_observed
    def resync(
        self,
        connection: Connection,
        doc_id: str,
        chunks: Sequence[Chunk] = (),
        files: Mapping[str, DocumentFile] = MappingProxyType({}),
    ) -> Receipt:
        """Send a document's current state again as its next version (the SYNC operation).

        Chunks that every sink is known to hold are sent without their vectors, unless `chunks` gives them. Vectors that
        a sink may lack come from `chunks` or from events that wait in the outbox, its files from `files` (by object
        key) or from those events. Raises UnknownDocument (also for a deleted document), InvalidDocument,
        VectorRequired, FileRequired or WrongModel before anything is written.
        """
        locked = self._lock_living(connection, doc_id)
        identity = locked.identity
        document = locked.stored[doc_id]
        given = self._validate_chunks(document, chunks, identity.dimension)
        waiting, waiting_files = read_unpublished(connection, doc_id, identity.lanes)
        state = desired.from_stored(document, {**waiting, **given}, {**waiting_files, **files})
        plans = [plan_upsert(state, document, identity.history_id, resend=True)]
        self._write(connection, locked, plans)
        return _receipts(connection, [doc_id], plans, locked.stored)[0]

    @_observed
    def relabel(
        self,
        connection: Connection,
        doc_id: str,
        *,
        title: str | UnsetType = UNSET,
        source_url: str | UnsetType | None = UNSET,
        business_tag: str | UnsetType | None = UNSET,
        domain: str | UnsetType | None = UNSET,
        language: str | UnsetType | None = UNSET,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Change a document's metadata as its next version, without its chunks; a field that is left out stays.

        Raises UnknownDocument (also for a deleted document), InvalidDocument or WrongModel before anything is written;
        VectorRequired or FileRequired when a sink lost the document: write its whole state with `upsert`.
        """
        given = {
            "title": title,
            "source_url": source_url,
            "business_tag": business_tag,
            "domain": domain,
            "language": language,
        }
        values = {name: value for name, value in given.items() if value is not UNSET}
        locked = self._lock_living(connection, doc_id)
        validate_metadata(doc_id, values)
        plans = [plan_relabel(values, locked.stored[doc_id], locked.identity.history_id)]
        self._write(connection, locked, plans, headers)
        return _receipts(connection, [doc_id], plans, locked.stored)[0]

    def dimension(self, connection: Connection) -> int:
        """The system's vector dimension; raises WrongModel unless the system's model is this writer's."""
        try:
            return self._check_model(read_identity(connection)).dimension
        except NotInitialised as error:
            raise WrongModel(str(error)) from error

    def _lock(self, connection: Connection, doc_ids: Sequence[Any]) -> LockedDocuments:
        """The identity and these documents, locked before anything else; what is no valid id is left out."""
        try:
            locked = lock_documents(connection, (doc_id for doc_id in doc_ids if doc_id_error(doc_id) is None))
        except NotInitialised as error:
            raise WrongModel(str(error)) from error
        self._check_model(locked.identity)
        return locked

    def _lock_existing(self, connection: Connection, doc_ids: Sequence[str]) -> LockedDocuments:
        locked = self._lock(connection, doc_ids)
        if unknown := [doc_id for doc_id in doc_ids if doc_id_error(doc_id) is not None or doc_id not in locked.stored]:
            raise UnknownDocument(unknown)
        return locked

    def _lock_living(self, connection: Connection, doc_id: str) -> LockedDocuments:
        locked = self._lock_existing(connection, [doc_id])
        if locked.stored[doc_id].row.deleted_at is not None:
            raise UnknownDocument([doc_id])
        return locked

    def _check_model(self, identity: Identity) -> Identity:
        if identity.embedding_model != self._model:
            raise WrongModel(
                f"the system's embedding model is {identity.embedding_model!r}, this writer's is {self._model!r}"
            )
        return identity

    def _validate_chunks(
        self, stored: StoredDocument, chunks: Sequence[Chunk], dimension: int
    ) -> dict[str, DesiredChunk]:
        """The chunks that come with a vector, by chunk id; raises InvalidDocument for one that is not stored."""
        if not chunks:
            return {}
        row = stored.row
        document = Document(doc_id=row.doc_id, title=row.title, source_type=row.source_type, chunks=chunks)
        given = desired.chunks_of(document, validate(document, self._model, dimension))
        if unknown := [chunk.chunk_index for chunk in given if chunk.chunk_id not in stored.chunks]:
            raise InvalidDocument(row.doc_id, [Problem(f"chunks[{at}]", "is not in the document") for at in unknown])
        return {chunk.chunk_id: chunk for chunk in given if chunk.vector is not None}

    def _write(
        self,
        connection: Connection,
        locked: LockedDocuments,
        plans: Sequence[Plan | None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # In the order of doc_id, so that two batches lock what they insert and change in the same order.
        changed = sorted((plan for plan in plans if plan is not None), key=lambda plan: plan.doc_id)
        _require_complete(changed)
        if not changed:
            return
        inserted = [plan for plan in changed if plan.operation is Operation.INSERT]
        statements.insert_documents(connection, inserted, locked.identity.sinks)
        for plan in changed:
            if plan.operation is not Operation.INSERT:
                statements.update_document(connection, plan, locked.stored[plan.doc_id].row.version)
                statements.change_chunks(connection, plan)
        statements.insert_chunks(connection, changed)
        statements.write_files(connection, changed)
        statements.log_operations(connection, changed, locked.stored, self._operator)
        parts = ((plan, payload) for plan in changed for payload in self._encode(plan, locked.identity))
        headers = {**self._trace_headers(), **(headers or {})}
        size_bytes = statements.append_events(connection, parts, self._content_type, headers)
        if self._metrics is not None:
            self._metrics.note_written(connection, changed, size_bytes)

    def _encode(self, plan: Plan, identity: Identity) -> Iterator[bytes]:
        return encode_event(plan, self._content_type, embedding_model=self._model, dimension=identity.dimension)


def _trace_headers() -> Callable[[], Mapping[str, str]]:
    """Makes headers that name the active span. Raises ImportError without the extra `otel`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # only if it traces

    propagator = TraceContextTextMapPropagator()  # not the global one: baggage may hold what no store should get

    def inject() -> Mapping[str, str]:
        headers: dict[str, str] = {}
        propagator.inject(headers)
        return headers

    return inject


def _plan_document(
    document: Document, vectors: Sequence[bytes | None], locked: LockedDocuments, history_id: str
) -> Plan | None:
    stored = locked.stored.get(document.doc_id)
    return plan_upsert(desired.from_document(document, vectors, stored), stored, history_id)


def _refuse_duplicates(doc_ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for doc_id in doc_ids:
        if doc_id in seen:
            raise InvalidDocument(doc_id, [Problem("doc_id", "is a duplicate in one batch")])
        seen.add(doc_id)


def _require_complete(plans: Sequence[Plan]) -> None:
    """Raise VectorRequired or FileRequired if an event would lack a vector or a file."""
    vectors = {plan.doc_id: plan.chunks.missing_vectors() for plan in plans}
    if missing := {doc_id: positions for doc_id, positions in vectors.items() if positions}:
        raise VectorRequired(missing)
    for plan in plans:
        if plan.files.missing is not None:
            raise FileRequired(plan.doc_id, plan.files.missing)


def _receipts(
    connection: Connection,
    doc_ids: Sequence[str],
    plans: Sequence[Plan | None],
    stored: Mapping[str, StoredDocument],
) -> list[Receipt]:
    """A receipt per document; one without a plan keeps its version."""
    return [
        Receipt(doc_id, stored[doc_id].row.version, False, connection.engine)
        if plan is None
        else Receipt(doc_id, plan.version, True, connection.engine)
        for doc_id, plan in zip(doc_ids, plans, strict=True)
    ]
