"""The embedded pipeline as the tests use it, and a look into its three stores that shares no code with it."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from sqlalchemy import Connection, Engine, select, text

from consumers.applier import Applier
from consumers.marks import SinkMarks
from consumers.milvus.marks import MilvusMarks
from consumers.milvus.sink import MilvusSink
from consumers.minio.marks import MinioMarks
from consumers.minio.sink import MinioSink
from consumers.sink import Sink
from producer import Chunk, Document, DocumentFile, Writer
from relays.direct import DirectRelay
from schema.database.connection import reading
from schema.database.outbox_rows import envelope_of
from schema.database.tables import outbox
from schema.events.events import Envelope
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS, MINIO

MODEL = "test-model"
DIMENSION = 8
MARKS: dict[str, SinkMarks] = {MILVUS: MilvusMarks(), MINIO: MinioMarks()}


def vector(content: str) -> list[float]:
    """Eight numbers that depend on the content alone."""
    digest = hashlib.sha256(content.encode()).digest()
    return [byte / 255 + 0.001 for byte in digest[:DIMENSION]]


def chunk(content: str, **fields: Any) -> Chunk:
    return Chunk(content=content, vector=fields.pop("vector", vector(content)), **fields)


def document(doc_id: str, *contents: str, **fields: Any) -> Document:
    """A document with a chunk a content; `file` may be given as bytes."""
    given = fields.pop("file", None)
    file = DocumentFile.from_bytes(given, "original.md") if isinstance(given, bytes) else given
    values = {"title": f"Title of {doc_id}", "source_type": "text", **fields}
    return Document(doc_id=doc_id, chunks=[chunk(content) for content in contents], file=file, **values)


def applier(engine: Engine, sink: Sink) -> Applier:
    return Applier(engine, sink, MARKS[sink.name])


@dataclass
class Pipeline:
    engine: Engine
    store: DirectoryStore
    milvus: MilvusClient
    writer: Writer
    milvus_sink: MilvusSink
    minio_sink: MinioSink

    def appliers(self) -> list[Applier]:
        return [applier(self.engine, sink) for sink in (self.milvus_sink, self.minio_sink)]

    def upsert(self, *documents: Document) -> None:
        with self.engine.begin() as connection:
            self.writer.upsert_many(connection, documents)

    def delete(self, *doc_ids: str) -> None:
        with self.engine.begin() as connection:
            self.writer.delete_many(connection, doc_ids)

    def run(self) -> None:
        """Relay everything that waits to both sinks."""
        relay = DirectRelay(self.engine, self.appliers())
        try:
            relay.run(threading.Event(), until_idle=True, patience_seconds=5)
        finally:
            relay.close()

    def pending(self, doc_id: str | None = None) -> list[Envelope]:
        """The events that wait in the outbox, in order: all, or those of one document."""
        statement = select(outbox).order_by(outbox.c.id)
        if doc_id is not None:
            statement = statement.where(outbox.c.aggregate_id == doc_id)
        with reading(self.engine) as connection:
            rows = connection.execute(statement).all()
        return [envelope_of(row) for row in rows]

    def sql(self, statement: str, **parameters: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), parameters))

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def milvus_rows(self) -> dict[str, dict[str, Any]]:
        """Every row in Milvus by chunk_id; `vector` as a list of floats."""
        rows = self.milvus.query(
            "rag_vectors", filter='chunk_id != ""', output_fields=["*"], limit=16_000, consistency_level="Strong"
        )
        assert len({row["chunk_id"] for row in rows}) == len(rows), "a chunk stands twice in Milvus"
        return {row["chunk_id"]: row for row in rows}

    def objects(self) -> dict[str, bytes]:
        return dict(_files(self.store.root))

    def assert_in_step(self) -> None:
        """All three stores hold the same documents; nothing is lost, doubled, left over or wrongly marked."""
        chunks = {row.chunk_id: row for row in self.sql("SELECT * FROM chunks")}
        documents = {row.doc_id: row for row in self.sql("SELECT * FROM documents")}
        rows = self.milvus_rows()
        assert rows.keys() == chunks.keys()
        for chunk_id, row in rows.items():
            stored = chunks[chunk_id]
            assert stored.milvus_synced
            assert stored.doc_id == row["doc_id"]
            assert stored.content_hash == row["content_hash"] == hashlib.sha256(row["content"].encode()).hexdigest()
            assert np.allclose(row["vector"], vector(row["content"]), atol=1e-6)
            labels = (stored.vector_level, stored.modal_type, stored.associate_id or "")
            assert labels == (row["vector_level"], row["modal_type"], row["associate_id"])
            owner = documents[stored.doc_id]
            assert (owner.business_tag or "", owner.oss_key or "") == (row["business_tag"], row["oss_id"])
        for doc_id, owner in documents.items():
            assert owner.status == "completed", (doc_id, owner.status)
            assert owner.chunk_count == sum(row.doc_id == doc_id for row in chunks.values())
        self._assert_files_in_step(documents)
        states = self.sql("SELECT * FROM sink_states")
        assert len(states) == 2 * len(documents)
        assert all(row.applied_version == documents[row.doc_id].version and row.state == "applied" for row in states)
        for table in ("outbox", "outbox_dead_letters", "chunk_tombstones"):
            assert self.sql(f"SELECT * FROM {table}") == [], table

    def _assert_files_in_step(self, documents: dict[str, Any]) -> None:
        objects = self.objects()
        files = {row.object_key: row for row in self.sql("SELECT * FROM document_files")}
        archived = {key for key in objects if key.startswith("processed-data/embeddings/")}
        assert objects.keys() - archived == files.keys()
        for key, row in files.items():
            assert row.removed_in_version is None
            assert hashlib.sha256(objects[key]).hexdigest() == row.sha256
        living = {doc_id for doc_id, row in documents.items() if row.deleted_at is None}
        assert {key.split("/")[2] for key in archived} == living


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("*"):
        if path.is_file() and ".parts" not in path.parts:  # of which a killed process may leave some
            yield path.relative_to(root).as_posix(), path.read_bytes()


def set_model(connection: Connection) -> None:
    connection.execute(
        text("INSERT INTO embedding_model (id, name, dimension) VALUES (1, :name, :dimension)"),
        {"name": MODEL, "dimension": DIMENSION},
    )
