"""The four steps from an uploaded file to a document in all stores: extract, chunk, embed, sync.

Each step leaves its result under `temp/task_{id}/` in the object store and queues the next one in the transaction that
ends it. Only the last one calls the writer: it replaces file, text and chunks in one version, in the transaction that
ends its task. So a step that is done twice, by two workers or after a crash, takes effect once.
"""

import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, Engine, Row, select

from producer.documents import Chunk, Document
from producer.errors import ProducerError
from producer.files import DocumentFile, FileUnusable
from producer.processing.chunk.document import chunk_document
from producer.processing.chunk.strategies import SEMANTIC, default_name, make_strategy
from producer.processing.document_files import describe_left_out, make_image_files, make_table_files, make_text_file
from producer.processing.embed.port import Embedder, embed_both
from producer.processing.errors import ProcessingError
from producer.processing.extract.extract import FileExtractor
from producer.processing.extract.port import Extracted, ExtractError
from producer.processing.tasks import queue
from producer.processing.tasks.queue import Task
from producer.processing.tasks.task_input import LABELS, CutChunk, TaskInput, Vectors
from producer.transaction import run
from producer.writer import Writer
from schema import limits
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.history import lock_identity
from schema.database.statements import select_for_ids
from schema.database.tables import TASK_TYPES, chunks, documents
from schema.events import identity
from schema.object_store import layout
from schema.object_store.port import ObjectMissing, ObjectStore

_TEXTS_PER_CALL = 256  # of the embedder
_RESTAGE_AFTER = timedelta(hours=limits.STAGED_FILE_HOURS / 2)
_EXTRACTED = msgspec.msgpack.Decoder(Extracted)
_CHUNKS = msgspec.msgpack.Decoder(list[CutChunk])
_VECTORS = msgspec.msgpack.Decoder(Vectors)


class Superseded(ProducerError):
    """Raised when the document moved on: it is deleted, or has another file or chunks than the upload knew."""


@dataclass(frozen=True)
class Steps:
    """Runs the steps of claimed tasks. `extractor` is not thread-safe: each worker thread has its own Steps."""

    engine: Engine
    store: ObjectStore
    writer: Writer
    embedder: Embedder
    extractor: FileExtractor

    def run(self, task: Task) -> Mapping[str, Any]:
        """Run one step and end its task. Returns its result.

        Raises Superseded; queue.LeaseLost; ProcessingError if the file cannot be processed; what the stores raise.
        """
        with reading(self.engine) as connection:
            require_current(task, _select_document(connection, task.doc_id))
        if task.task_type == TASK_TYPES[-1]:
            result = self._sync(task)
            self.clean_up(task)
            return result
        steps: Mapping[str, Callable[[Task], tuple[TaskInput, dict[str, Any]]]] = {
            "extract": self._extract,
            "chunk": self._chunk,
            "embed": self._embed,
        }
        following, result = steps[task.task_type](task)
        next_type = TASK_TYPES[TASK_TYPES.index(task.task_type) + 1]
        with self.engine.begin() as connection:
            queue.finish(connection, task, result)
            queue.add_next(connection, task, next_type, following)
        return result

    def clean_up(self, task: Task) -> None:
        """Remove what the steps of an upload left; what stays after a crash, the sweep removes."""
        self.store.remove(list(self.store.keys(layout.task_prefix(task.upload_id))))

    def _extract(self, task: Task) -> tuple[TaskInput, dict[str, Any]]:
        file = task.input.file
        with tempfile.TemporaryDirectory(prefix="rag-outbox-") as folder:
            path = Path(folder) / (PurePath(file.name).name or f"file.{file.extension}")
            path.write_bytes(self._read(file.staged_key))
            try:
                extracted = self.extractor.extract(path)
            except ExtractError as error:  # the folder is gone when somebody reads its path
                raise type(error)(Path(file.name), error.reason, offset=error.offset) from error
        if extracted.sha256 != file.sha256:
            raise FileUnusable(f"{file.name}: the staged object {file.staged_key!r} has other bytes than the upload")
        key = self._put(task, msgspec.msgpack.encode(extracted))
        facts = {"characters": len(extracted.text), "tables": len(extracted.tables), "pages": extracted.page_count}
        left_out = describe_left_out(extracted)
        warned = {"left_out": left_out} if left_out else {}
        return msgspec.structs.replace(task.input, extracted_key=key), facts | warned

    def _chunk(self, task: Task) -> tuple[TaskInput, dict[str, Any]]:
        extracted = _EXTRACTED.decode(self._read(task.input.extracted_key))
        name = task.input.strategy or default_name(is_markdown=extracted.is_markdown)
        strategy = make_strategy(name, self.embedder if name == SEMANTIC else None)
        made = chunk_document(task.doc_id, extracted, strategy)
        key = self._put(task, msgspec.msgpack.encode([CutChunk.of(chunk) for chunk in made]))
        return msgspec.structs.replace(task.input, chunks_key=key), {"chunks": len(made), "strategy": name}

    def _embed(self, task: Task) -> tuple[TaskInput, dict[str, Any]]:
        """Embed the chunks that the document does not have; the writer asks for others only if a sink lost them."""
        made = _CHUNKS.decode(self._read(task.input.chunks_key))
        ids = identity.chunk_ids(task.doc_id, [identity.content_hash(chunk.content) for chunk in made])
        with reading(self.engine) as connection:
            stored = _select_stored(connection, ids)
        positions = [position for position, chunk_id in enumerate(ids) if chunk_id not in stored]
        values, weights = bytearray(), list[dict[int, float]]()
        for some in bounded(positions, _TEXTS_PER_CALL):
            embedded = embed_both(self.embedder, [made[at].content for at in some])
            values += np.asarray(embedded.vectors, dtype="<f4").tobytes()
            weights += [dict(one) for one in embedded.weights or ()]
        model, dimension = self.embedder.model, self.embedder.dimension
        vectors = Vectors(model, positions, dimension, bytes(values), weights or None)
        key = self._put(task, msgspec.msgpack.encode(vectors))
        return msgspec.structs.replace(task.input, vectors_key=key), {"chunks": len(made), "embedded": len(positions)}

    def _sync(self, task: Task) -> dict[str, Any]:
        extracted = _EXTRACTED.decode(self._read(task.input.extracted_key))
        made = self._with_vectors(task, _CHUNKS.decode(self._read(task.input.chunks_key)))
        file = None if task.input.is_new else self._restage(task)
        files = _Files(
            file,
            make_text_file(extracted, self.store),
            make_table_files(extracted, self.store),
            make_image_files(extracted, self.store),
        )

        def write(connection: Connection) -> dict[str, Any]:
            lock_identity(connection)
            row = connection.execute(_of(task.doc_id).with_for_update()).one_or_none()
            require_current(task, row)
            assert row is not None
            document = _document(task, row, extracted, made, files)
            receipt = self.writer.upsert(connection, document, embedder=self.embedder)
            result = {"version": receipt.version, "chunks": len(made)}
            queue.finish(connection, task, result)
            return result

        return run(self.engine, write, store=self.store)

    def _with_vectors(self, task: Task, made: Sequence[CutChunk]) -> list[Chunk]:
        """The chunks with the vectors of the step before, unless another model made them."""
        filled = [chunk.to_chunk() for chunk in made]
        vectors = _VECTORS.decode(self._read(task.input.vectors_key))
        if (vectors.model, vectors.dimension) != (self.embedder.model, self.embedder.dimension):
            return filled
        rows = np.frombuffer(vectors.values, dtype="<f4").reshape(len(vectors.positions), vectors.dimension)
        weights: Sequence[dict[int, float] | None] = vectors.weights or [None] * len(rows)
        for position, vector, sparse in zip(vectors.positions, rows, weights, strict=True):
            filled[position] = replace(filled[position], vector=vector, sparse=sparse)
        return filled

    def _restage(self, task: Task) -> DocumentFile:
        """The uploaded file for the writer, which takes no file that was staged long ago."""
        file = task.input.file.to_document_file()
        if file.staged_at is not None and datetime.now(UTC) - file.staged_at < _RESTAGE_AFTER:
            return file
        content = self._read(task.input.file.staged_key)
        with tempfile.TemporaryDirectory(prefix="rag-outbox-") as folder:
            path = Path(folder) / f"file.{file.extension}"
            path.write_bytes(content)
            again = DocumentFile.from_path(path, self.store, always_stage=True)
        return replace(file, staged_key=again.staged_key, staged_at=again.staged_at)

    def _read(self, key: str) -> bytes:
        try:
            return self.store.read(key)
        except ObjectMissing as error:
            raise ProcessingError(f"{error}: upload the file again") from error

    def _put(self, task: Task, content: bytes) -> str:
        """The attempt is part of the key: a worker that lost its lease never overwrites the result of another."""
        key = f"{layout.task_prefix(task.upload_id)}{task.task_type}-{task.attempt}.msgpack"
        digest = hashlib.sha256(content).hexdigest()  # without it, every backup would copy the object again
        self.store.put(
            key, io.BytesIO(content), size_bytes=len(content), content_type="application/msgpack", sha256=digest
        )
        return key


@dataclass(frozen=True)
class _Files:
    """The files of a document; a new one has its original already."""

    original: DocumentFile | None
    text: DocumentFile
    tables: list[DocumentFile]
    images: list[DocumentFile]


def require_current(task: Task, row: Row[Any] | None) -> None:
    """Raises Superseded. A change of labels alone does no harm: the last step keeps the newest ones."""
    if row is None or row.deleted_at is not None:
        raise Superseded("the document is deleted")
    known = task.input.file.sha256 if task.input.is_new else task.input.replaces
    if row.content_sha256 != known or (task.input.is_new and row.chunk_count is not None):
        raise Superseded(f"the document has another file or chunks since version {row.version}")


def _document(
    task: Task,
    row: Row[Any],
    extracted: Extracted,
    made: Sequence[Chunk],
    files: "_Files",
) -> Document:
    """Labels of the upload, or else the stored ones; a title and a language that nobody gave come from the file."""
    labels: dict[str, Any] = {name: task.input.labels.get(name) or getattr(row, name) for name in LABELS}
    if task.input.is_new and "title" not in task.input.labels and row.version == task.version:
        labels["title"] = extracted.title
    return Document(
        **labels | {"language": labels["language"] or extracted.language},
        doc_id=task.doc_id,
        source_type=extracted.source_type,
        page_count=extracted.page_count,
        chunks=made,
        file=files.original,
        text=files.text,
        tables=files.tables,
        images=files.images,
    )


def _of(doc_id: str) -> Any:
    return select(documents).where(documents.c.doc_id == doc_id)


def _select_document(connection: Connection, doc_id: str) -> Row[Any] | None:
    return connection.execute(_of(doc_id)).one_or_none()


def _select_stored(connection: Connection, ids: Sequence[str]) -> set[str]:
    key = chunks.c.chunk_id
    return {chunk_id for (chunk_id,) in select_for_ids(connection, select(key), key, ids)}
