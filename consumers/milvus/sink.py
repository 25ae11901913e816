"""The Milvus sink: rows by primary key, written before stale ones are deleted, in batches bounded in rows and bytes."""

from collections.abc import Iterable, Mapping, Sequence

from pymilvus import MilvusClient
from sqlalchemy import Connection

from consumers import late_apply, marks
from consumers.milvus import collection as milvus_collection
from consumers.milvus import rows as milvus_rows
from consumers.milvus import upsert as milvus_upsert
from consumers.milvus.collection import TIMEOUT_SECONDS
from consumers.milvus.errors import ERRORS, not_loaded, translated
from consumers.milvus.rows import Row
from consumers.sink import Change
from schema import collection
from schema.batches import bounded
from schema.events.events import ChunkRow, DocumentUpserted, Event
from schema.failures import Permanent
from schema.sinks import MILVUS

_ROWS_A_REQUEST = 1_000
_REQUEST_BYTES = 16 * 1024 * 1024
_ANSWER_BYTES = 32 * 1024 * 1024


class MilvusSink:
    """The collection behind the alias `rag_vectors`, of vectors with `dimension` float32 numbers."""

    name = MILVUS

    def __init__(self, client: MilvusClient, dimension: int) -> None:
        self._client = client
        self._dimension = dimension
        self._with_sparse: bool | None = None  # whether the collection has sparse weights, once it was asked

    def ensure(self) -> None:
        try:
            milvus_collection.ensure(self._client, self._dimension)
            stored = milvus_collection.stored_fields(self._client, collection.ALIAS)
        except ERRORS as error:
            raise translated(error) from error
        found = int(stored["vector"]["dim"])
        if found != self._dimension:
            raise Permanent(f"the Milvus collection has {found} dimensions, the system {self._dimension}")
        self._with_sparse = "sparse" in stored

    def apply(self, changes: Sequence[Change]) -> None:
        if self._with_sparse is None:
            self.ensure()
        upserts: dict[str, Row] = {}
        labels: dict[str, Row] = {}
        tombstones: dict[str, None] = {}
        for change in changes:
            for event in change.events:
                tombstones |= dict.fromkeys(event.tombstones)
                if isinstance(event, DocumentUpserted):
                    upserts |= {chunk.chunk_id: self._row(event, chunk) for chunk in event.chunks}
                    labels |= {chunk.chunk_id: milvus_rows.labels(event, chunk) for chunk in event.relabelled}
        try:
            self._write(upserts.values())
            self._relabel(labels)
            self._delete([chunk_id for chunk_id in tombstones if chunk_id not in upserts])
        except ERRORS as error:
            raise self._failed(error) from error

    @staticmethod
    def mark(connection: Connection, changes: Sequence[Change]) -> None:
        events = [(change.version, event) for change in changes for event in change.events]
        written = (
            (version, [chunk.chunk_id for chunk in event.chunks] + [chunk.chunk_id for chunk in event.relabelled])
            for version, event in events
            if isinstance(event, DocumentUpserted)
        )
        marks.chunks_synced(connection, written)
        marks.tombstones_confirmed(connection, ((version, event.tombstones) for version, event in events))

    @staticmethod
    def harm(connection: Connection, change: Change) -> str | None:
        return late_apply.to_vectors(connection, change)

    def settle(self, events: Sequence[Event]) -> None:
        """Nothing is kept for another attempt."""

    def close(self) -> None:
        self._client.close()

    def _row(self, event: DocumentUpserted, chunk: ChunkRow) -> Row:
        return milvus_rows.row(event, chunk, self._dimension, with_sparse=bool(self._with_sparse))

    def _write(self, rows: Iterable[Row]) -> None:
        for some in bounded(rows, _ROWS_A_REQUEST, _REQUEST_BYTES, milvus_rows.size_bytes):
            milvus_upsert.upsert(self._client, some, timeout_seconds=TIMEOUT_SECONDS)

    def _relabel(self, labels: Mapping[str, Row]) -> None:
        """Milvus has no update in place: read the rows with their vectors, and write them back with the new labels."""
        largest = milvus_rows.largest_bytes(self._dimension)
        for some in bounded(labels, _ROWS_A_REQUEST, _ANSWER_BYTES, lambda _: largest):
            found = self._client.query(
                collection.ALIAS,
                filter=_among(map(collection.literal, some)),
                output_fields=["*"],
                timeout=TIMEOUT_SECONDS,
                consistency_level="Strong",  # the default may not see what was written a moment ago
            )
            if len(found) < len(some):
                missing = set(some) - {row["chunk_id"] for row in found}
                raise Permanent(f"Milvus lacks {len(missing)} marked chunks, one is {min(missing)}: send their vectors")
            self._write({**row, **labels[row["chunk_id"]]} for row in found)

    def _delete(self, chunk_ids: Iterable[str]) -> None:
        """By primary key: a list of nothing else, which Milvus need not search for."""
        ids = map(collection.literal, chunk_ids)
        for some in bounded(ids, _ROWS_A_REQUEST, _REQUEST_BYTES, lambda literal: 4 * len(literal)):
            self._client.delete(collection.ALIAS, filter=_among(some), timeout=TIMEOUT_SECONDS)

    def _failed(self, error: Exception) -> Exception:
        """What to raise; a collection that somebody released is loaded again, which goes on after the answer."""
        if not_loaded(error):
            try:
                self._client.load_collection(collection.ALIAS, timeout=TIMEOUT_SECONDS, _async=True)
            except ERRORS as failure:
                return translated(failure)
        return translated(error)


def _among(literals: Iterable[str]) -> str:
    return f"chunk_id in [{', '.join(literals)}]"
