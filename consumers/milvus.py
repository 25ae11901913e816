"""The Milvus sink: rows by primary key, written before stale ones are deleted, in batches bounded in rows and bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError, SchemaNotReadyException
from sqlalchemy import Connection

from consumers import marks
from consumers.sink import Change
from schema import collection
from schema.batches import bounded
from schema.events import ChunkLabels, ChunkRow, DocumentUpserted
from schema.failures import Permanent, Retryable
from schema.sinks import MILVUS

_ROWS_A_REQUEST = 1_000
_REQUEST_BYTES = 16 * 1024 * 1024
_TIMEOUT_SECONDS = 30.0  # the client's own default retries for many minutes
_FIRST_COLLECTION = f"{collection.ALIAS}_1"
_INVALID = {1100, 6}  # Milvus' and Milvus Lite's error code of values that the collection cannot take

Row = dict[str, Any]


class MilvusSink:
    """The collection behind the alias `rag_vectors`, of vectors with `dimension` float32 numbers."""

    name = MILVUS

    def __init__(self, client: MilvusClient, dimension: int) -> None:
        self._client = client
        self._dimension = dimension

    def ensure(self) -> None:
        try:
            if not self._client.has_collection(collection.ALIAS, timeout=_TIMEOUT_SECONDS):
                create(self._client, _FIRST_COLLECTION, self._dimension)
                self._client.create_alias(_FIRST_COLLECTION, collection.ALIAS, timeout=_TIMEOUT_SECONDS)
            self._client.load_collection(collection.ALIAS, timeout=_TIMEOUT_SECONDS)
            found = self._stored_dimension()
        except (MilvusException, grpc.RpcError) as error:
            raise _translated(error) from error
        if found != self._dimension:
            raise Permanent(f"the Milvus collection has {found} dimensions, the system {self._dimension}")

    def apply(self, changes: Sequence[Change]) -> None:
        upserts: dict[str, Row] = {}
        labels: dict[str, Row] = {}
        tombstones: dict[str, None] = {}
        for change in changes:
            for event in change.events:
                tombstones |= dict.fromkeys(event.tombstones)
                if isinstance(event, DocumentUpserted):
                    self._check(event)
                    upserts |= {chunk.chunk_id: _row(event, chunk) for chunk in event.chunks}
                    labels |= {chunk.chunk_id: _labels(event, chunk) for chunk in event.relabelled}
        try:
            self._write(upserts.values())
            self._relabel(labels)
            self._delete([chunk_id for chunk_id in tombstones if chunk_id not in upserts])
        except (MilvusException, grpc.RpcError) as error:
            raise _translated(error) from error

    def mark(self, connection: Connection, changes: Sequence[Change]) -> None:
        events = [(change.version, event) for change in changes for event in change.events]
        written = (
            (version, [chunk.chunk_id for chunk in event.chunks] + [chunk.chunk_id for chunk in event.relabelled])
            for version, event in events
            if isinstance(event, DocumentUpserted)
        )
        marks.chunks_synced(connection, written)
        marks.tombstones_confirmed(connection, ((version, event.tombstones) for version, event in events))

    def close(self) -> None:
        self._client.close()

    def _check(self, event: DocumentUpserted) -> None:
        """What a writer of ours refuses at its door can still come from a writer in another language."""
        for chunk in event.chunks:
            if len(chunk.vector) != 4 * self._dimension:
                raise Permanent(
                    f"chunk {chunk.chunk_id}: the vector has {len(chunk.vector)} bytes, "
                    f"{self._dimension} float32 numbers need {4 * self._dimension}"
                )
            if not np.isfinite(np.frombuffer(chunk.vector, "<f4")).all():
                raise Permanent(f"chunk {chunk.chunk_id}: the vector is not finite")

    def _write(self, rows: Iterable[Row]) -> None:
        for some in bounded(rows, _ROWS_A_REQUEST, _REQUEST_BYTES, _size):
            self._client.upsert(collection.ALIAS, some, timeout=_TIMEOUT_SECONDS)

    def _relabel(self, labels: Mapping[str, Row]) -> None:
        """Milvus has no update in place: read the rows with their vectors, and write them back with the new labels."""
        for some in bounded(labels, _ROWS_A_REQUEST, _REQUEST_BYTES, lambda _: 4 * self._dimension):
            found = self._client.get(
                collection.ALIAS,
                ids=some,
                output_fields=["*"],
                timeout=_TIMEOUT_SECONDS,
                consistency_level="Strong",  # the default may not see what was written a moment ago
            )
            if len(found) < len(some):
                missing = set(some) - {row["chunk_id"] for row in found}
                raise Permanent(f"Milvus lacks {len(missing)} marked chunks, one is {min(missing)}: send their vectors")
            self._write({**row, **labels[row["chunk_id"]]} for row in found)

    def _delete(self, chunk_ids: Iterable[str]) -> None:
        for some in bounded(chunk_ids, _ROWS_A_REQUEST):
            self._client.delete(collection.ALIAS, ids=some, timeout=_TIMEOUT_SECONDS)

    def _stored_dimension(self) -> int:
        described = self._client.describe_collection(collection.ALIAS, timeout=_TIMEOUT_SECONDS)
        return next(int(field["params"]["dim"]) for field in described["fields"] if field["name"] == "vector")


def create(client: MilvusClient, name: str, dimension: int) -> None:
    """Create a collection with its indexes, each of a kind that the server offers; goes on where a crash left it."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    indexes = client.prepare_index_params()
    for field in collection.FIELDS:
        if field.kind == "vector":
            schema.add_field(field.name, DataType.FLOAT_VECTOR, dim=dimension)
        elif field.kind == "int64":
            schema.add_field(field.name, DataType.INT64)
        else:
            primary = field is collection.FIELDS[0]
            schema.add_field(field.name, DataType.VARCHAR, max_length=field.max_length, is_primary=primary)
    if not client.has_collection(name, timeout=_TIMEOUT_SECONDS):
        client.create_collection(name, schema=schema, timeout=_TIMEOUT_SECONDS)
    indexes.add_index("vector", index_type="HNSW", metric_type=collection.METRIC, params=collection.HNSW)
    if not client.list_indexes(name, "vector", timeout=_TIMEOUT_SECONDS):  # Milvus Lite refuses a second one
        client.create_index(name, indexes, timeout=_TIMEOUT_SECONDS, sync=False)  # loading waits for it
    for field in collection.FIELDS:
        if field.index and not client.list_indexes(name, field.name, timeout=_TIMEOUT_SECONDS):
            _create_scalar_index(client, name, field)


def _create_scalar_index(client: MilvusClient, name: str, field: collection.Field) -> None:
    """The first kind that the server takes; without any, filters on the field scan."""
    for kind in field.index:
        indexes = client.prepare_index_params()
        indexes.add_index(field.name, index_type=kind)
        try:
            client.create_index(name, indexes, timeout=_TIMEOUT_SECONDS, sync=False)
            return
        except MilvusException as error:
            if isinstance(_translated(error), Retryable) and field.index[-1] == kind:
                raise


def _row(event: DocumentUpserted, chunk: ChunkRow) -> Row:
    return {
        "chunk_id": chunk.chunk_id,
        "content_hash": chunk.content_hash,
        "vector": np.frombuffer(chunk.vector, "<f4"),
        "content": chunk.content,
        **_labels(event, chunk),
    }


def _labels(event: DocumentUpserted, chunk: ChunkLabels | ChunkRow) -> Row:
    return {
        "doc_id": event.doc_id,
        "doc_version": event.version,
        "business_tag": event.business_tag,
        "oss_id": event.oss_key,
        "modal_type": chunk.modal_type,
        "vector_level": chunk.vector_level,
        "associate_id": chunk.associate_id,
    }


def _size(row: Row) -> int:
    return 512 + 4 * len(row["vector"]) + 4 * len(row["content"])  # at most: UTF-8 takes 4 bytes a character


def _translated(error: Exception) -> Exception:
    if isinstance(error, ParamError | DataNotMatchException | SchemaNotReadyException):
        return Permanent(f"Milvus: {error.message}")
    if isinstance(error, MilvusException) and error.code in _INVALID:
        return Permanent(f"Milvus: {error.message}")
    return Retryable(f"Milvus: {error}")
