"""The writer: document, chunks, operation log, sink states and outbox rows in the caller's transaction.

Invariant 1: all of it commits or rolls back with that transaction; the writer never commits.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import UNSET, UnsetType
from sqlalchemy import Connection

from producer import desired, locking, writing
from producer.backpressure import MAX_PENDING_BYTES, MAX_PENDING_EVENTS, OutboxLimit
from producer.connections import Connected, connection_of
from producer.desired import DesiredChunk
from producer.documents import Chunk, Document
from producer.errors import InvalidDocument, Problem
from producer.files import DocumentFile
from producer.headers import check_context, check_headers, trace_headers
from producer.metrics import WriterMetrics
from producer.plan import Plan, plan_delete, plan_upsert
from producer.planning import plan_document
from producer.processing.embed.port import Embedder
from producer.receipts import Receipt
from producer.relabel import plan_relabel
from producer.stored import LockedDocuments, StoredDocument
from producer.supply import Supply
from producer.unpublished import read_unpublished
from producer.validation import validate, validate_metadata
from producer.writing import WriteOptions
from schema import limits
from schema.events.events import JSON, MSGPACK, ChunkRow

P = ParamSpec("P")
T = TypeVar("T")
Headers = Mapping[str, str] | None
Context = Mapping[str, Any] | None


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
    A write that changes something raises Backpressure while more than `max_pending_events` rows or `max_pending_bytes`
    bytes wait in the outbox (None: no limit), as seen within the last second. Thread-safe.

    Each method takes the `connection` of your transaction: a SQLAlchemy Connection or ORM Session; from async code,
    `await connection.run_sync(lambda connection: writer.upsert(connection, document))`. `headers` (at most 16, for
    instance a tenant) travel with the events; `transaction_context` (JSON of at most 4 KiB, for instance a request id
    and a user) stays with the row of `operation_logs`. InvalidArgument is raised for either before anything is written.
    """

    def __init__(
        self,
        model: str,
        *,
        operator: str = "unknown",
        content_type: str = MSGPACK,
        metrics: WriterMetrics | None = None,
        tracing: bool = False,
        max_pending_events: int | None = MAX_PENDING_EVENTS,
        max_pending_bytes: int | None = MAX_PENDING_BYTES,
    ) -> None:
        if content_type not in (MSGPACK, JSON):
            raise ValueError(f"content_type must be {MSGPACK!r} or {JSON!r}, is {content_type!r}")
        if not isinstance(model, str):
            raise TypeError(f"model must be a string, is {type(model).__name__}")
        if not isinstance(operator, str):
            raise TypeError(f"operator must be a string, is {type(operator).__name__}")
        for name, limit in (("max_pending_events", max_pending_events), ("max_pending_bytes", max_pending_bytes)):
            if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
                raise TypeError(f"{name} must be a whole number or None, is {type(limit).__name__}")
            if limit is not None and limit < 0:
                raise ValueError(f"{name} must be at least 0, is {limit}")
        self._model = model
        self._operator = operator[: limits.OPERATOR_CHARACTERS]
        self._content_type = content_type
        self._metrics = metrics
        self._outbox_limit = OutboxLimit(max_pending_events, max_pending_bytes)
        self._trace_headers = trace_headers() if tracing else dict

    def upsert(
        self,
        connection: Connected,
        document: Document,
        *,
        embedder: Embedder | None = None,
        headers: Headers = None,
        transaction_context: Context = None,
    ) -> Receipt:
        """Write a document's whole state as its next version; see `upsert_many`."""
        [receipt] = self.upsert_many(
            connection, [document], embedder=embedder, headers=headers, transaction_context=transaction_context
        )
        return receipt

    @_observed
    def upsert_many(
        self,
        connection: Connected,
        documents: Sequence[Document],
        *,
        embedder: Embedder | None = None,
        headers: Headers = None,
        transaction_context: Context = None,
    ) -> list[Receipt]:
        """Write documents in multi-row statements and return a receipt per document. Skips unchanged documents.

        `embedder` embeds the chunks without a vector that need one, and only these. Inside `producer.run` it works
        between two transactions; otherwise it works while this transaction holds the locks of the documents.
        Raises InvalidDocument, VectorRequired, FileRequired or WrongModel before anything is written, WriteConflict if
        the transaction must be run again.
        """
        _require_list("documents", documents, "Document")
        options, connection = self._options(headers, transaction_context), connection_of(connection)
        doc_ids = [getattr(document, "doc_id", None) for document in documents]
        locked = locking.lock(connection, self._model, doc_ids, self._outbox_limit)
        vectors = [validate(document, self._model, locked.identity.dimension) for document in documents]
        _refuse_duplicates(doc_ids)
        supply = Supply.of(connection)
        supply.use(embedder, locked.identity)
        given = list(zip(documents, vectors, strict=True))
        plans = [plan_document(connection, *one, locked, supply) for one in given]
        if embedder is not None and not supply.is_filled_outside and (needed := writing.find_needed(plans, locked)):
            supply.embed(needed)
            plans = [plan_document(connection, *one, locked, supply) for one in given]
        return self._write(connection, locked, [document.doc_id for document in documents], plans, options)

    def delete(
        self, connection: Connected, doc_id: str, *, headers: Headers = None, transaction_context: Context = None
    ) -> Receipt:
        """Delete a document from every store; see `delete_many`."""
        [receipt] = self.delete_many(connection, [doc_id], headers=headers, transaction_context=transaction_context)
        return receipt

    @_observed
    def delete_many(
        self,
        connection: Connected,
        doc_ids: Sequence[str],
        *,
        headers: Headers = None,
        transaction_context: Context = None,
    ) -> list[Receipt]:
        """Delete documents and return a receipt per document; their rows stay as tombstones.

        Skips documents that are deleted already. Raises UnknownDocument before anything is written.
        """
        _require_list("doc_ids", doc_ids, "str")
        options, connection = self._options(headers, transaction_context), connection_of(connection)
        locked = locking.lock_existing(connection, self._model, doc_ids, self._outbox_limit)
        _refuse_duplicates(doc_ids)
        plans = [plan_delete(locked.stored[doc_id], locked.identity.history_id) for doc_id in doc_ids]
        return self._write(connection, locked, doc_ids, plans, options)

    @_observed
    def resync(
        self,
        connection: Connected,
        doc_id: str,
        chunks: Sequence[Chunk] = (),
        *,
        files: Mapping[str, DocumentFile] = MappingProxyType({}),
        headers: Headers = None,
        transaction_context: Context = None,
    ) -> Receipt:
        """Send a document's current state again as its next version (the SYNC operation).

        Chunks that every sink is known to hold are sent without their vectors, unless `chunks` gives them. Vectors that
        a sink may lack come from `chunks` or from events that wait in the outbox; inside `producer.run` with a store,
        from the archive, too. Its files come from `files` (by object key) or from those events. A document whose file
        could not be processed stays `failed`: that needs `tasks retry`, or another file. Raises UnknownDocument
        (also for a deleted document), InvalidDocument, VectorRequired, FileRequired or WrongModel before anything is
        written.
        """
        options, connection = self._options(headers, transaction_context), connection_of(connection)
        locked = locking.lock_living(connection, self._model, doc_id, self._outbox_limit)
        identity = locked.identity
        document = locked.stored[doc_id]
        given = self._validate_chunks(document, chunks, identity.dimension)
        waiting, waiting_files = read_unpublished(connection, doc_id, identity.lanes)
        changes_model = bool(given) and document.row.embedding_model != identity.embedding_model
        known: dict[str, ChunkRow | DesiredChunk] = dict(given) if changes_model else {**waiting, **given}
        state = desired.from_stored(document, known, {**waiting_files, **files})
        if changes_model:
            state = replace(state, columns={**state.columns, "embedding_model": identity.embedding_model})
        plan = plan_upsert(Supply.of(connection).fill(state, document), document, identity.history_id, resend=True)
        return self._write(connection, locked, [doc_id], [plan], options)[0]

    @_observed
    def relabel(
        self,
        connection: Connected,
        doc_id: str,
        *,
        title: str | UnsetType = UNSET,
        source_url: str | UnsetType | None = UNSET,
        business_tag: str | UnsetType | None = UNSET,
        domain: str | UnsetType | None = UNSET,
        language: str | UnsetType | None = UNSET,
        headers: Headers = None,
        transaction_context: Context = None,
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
        options, connection = self._options(headers, transaction_context), connection_of(connection)
        locked = locking.lock_living(connection, self._model, doc_id, self._outbox_limit)
        validate_metadata(doc_id, values)
        document, history_id = locked.stored[doc_id], locked.identity.history_id
        plan = plan_relabel(values, document, history_id, Supply.of(connection))
        return self._write(connection, locked, [doc_id], [plan], options)[0]

    def dimension(self, connection: Connected) -> int:
        """The system's vector dimension; raises WrongModel unless the system's model is this writer's."""
        return locking.find_identity(connection_of(connection), self._model).dimension

    def _options(self, headers: Headers, context: Context) -> WriteOptions:
        given, checked = check_headers(headers), check_context(context)
        return WriteOptions(self._content_type, self._operator, {**self._trace_headers(), **given}, checked)

    def _write(
        self,
        connection: Connection,
        locked: LockedDocuments,
        doc_ids: Sequence[str],
        plans: Sequence[Plan | None],
        options: WriteOptions,
    ) -> list[Receipt]:
        if changed := writing.require_complete(plans, locked):
            self._outbox_limit.check(connection)
            size_bytes = writing.write(connection, locked, changed, options)
            if self._metrics is not None:
                self._metrics.note_written(connection, changed, size_bytes)
        return writing.make_receipts(connection, doc_ids, plans, locked)

    def _validate_chunks(
        self, stored: StoredDocument, chunks: Sequence[Chunk], dimension: int
    ) -> dict[str, DesiredChunk]:
        """The chunks that come with a vector, by chunk id; raises InvalidDocument for one that is not stored."""
        if not chunks:
            return {}
        row = stored.row
        document = Document(doc_id=row.doc_id, title=row.title, source_type=row.source_type, chunks=chunks)
        given = desired.chunks_of(row.doc_id, chunks, validate(document, self._model, dimension))
        if unknown := [chunk.chunk_index for chunk in given if chunk.chunk_id not in stored.chunks]:
            raise InvalidDocument(row.doc_id, [Problem(f"chunks[{at}]", "is not in the document") for at in unknown])
        return {chunk.chunk_id: chunk for chunk in given if chunk.vector is not None}


def _require_list(name: str, given: object, of: str) -> None:
    """Raise TypeError for a single value, for instance one id: its characters would be taken for ids."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
        raise TypeError(f"{name} must be a list of {of}, is {type(given).__name__}")


def _refuse_duplicates(doc_ids: Sequence[Any]) -> None:
    seen: set[Any] = set()
    for doc_id in doc_ids:
        if doc_id in seen:
            raise InvalidDocument(doc_id, [Problem("doc_id", "is a duplicate in one batch")])
        seen.add(doc_id)
