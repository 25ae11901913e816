"""The embedded pipeline as the tests use it, and direct access to its three stores."""

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
from relays.direct import direct_relay
from schema.database.connection import reading
from schema.database.history import create_system
from schema.database.outbox_rows import envelope_of
from schema.database.tables import LANES, outbox
from schema.events.events import Envelope
from schema.object_store.directory import DirectoryStore
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.sinks import MILVUS, MINIO
from tests.support import in_step

MODEL = "test-model"
SYSTEM_ID = "5e57ab1e-0000-4000-8000-000000000001"
DIMENSION = 8
MARKS: dict[str, SinkMarks] = {MILVUS: MilvusMarks(), MINIO: MinioMarks()}


def vector(content: str) -> list[float]:
    """DIMENSION numbers that depend on the content alone."""
    digest = hashlib.sha256(content.encode()).digest()
    return [byte / 255 + 0.001 for byte in digest[:DIMENSION]]


def chunk(content: str, **fields: Any) -> Chunk:
    return Chunk(content=content, vector=fields.pop("vector", vector(content)), **fields)


def document(doc_id: str, *contents: str, **fields: Any) -> Document:
    """A document with one chunk per content; `file` may be given as bytes."""
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
        """Relay all pending events to both sinks."""
        relay = direct_relay(self.engine, self.appliers())
        try:
            relay.run(threading.Event(), until_idle=True, patience_seconds=5)
        finally:
            relay.close()

    def pending(self, doc_id: str | None = None) -> list[Envelope]:
        """The events in the outbox, in order: all, or those of one document."""
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
        assert len({row["chunk_id"] for row in rows}) == len(rows), "Milvus holds a chunk twice"
        return {row["chunk_id"]: row for row in rows}

    def objects(self) -> dict[str, bytes]:
        return dict(_files(self.store.root))

    def assert_in_step(self) -> None:
        """The three stores hold the same documents, with the vectors of their contents."""
        rows = self.milvus_rows().values()
        in_step.assert_in_step(self.sql, rows, self.objects())
        assert all(np.allclose(row["vector"], vector(row["content"]), atol=1e-6) for row in rows)


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("*"):
        key = path.relative_to(root).as_posix()
        if path.is_file() and key != SYSTEM_ID_KEY and ".parts" not in path.parts:  # a killed process may leave parts
            yield key, path.read_bytes()


def set_namespace(engine: Engine, namespace: str) -> None:
    """Let processes with this namespace work on the database, which `set_model` filled."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE system_identity SET namespace = :namespace"), {"namespace": namespace})


def set_model(connection: Connection) -> None:
    create_system(
        connection,
        embedding_model=MODEL,
        dimension=DIMENSION,
        lanes=LANES,
        system_id=SYSTEM_ID,
        namespace="rag",
    )
