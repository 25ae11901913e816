"""An instance of Milvus: rows by primary key, written before stale ones are deleted, in batches of bounded size."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from consumers.milvus import collection as milvus_collection
from consumers.milvus import rows as milvus_rows
from consumers.milvus import upsert as milvus_upsert
from consumers.milvus.collection import TIMEOUT_SECONDS
from consumers.milvus.errors import ERRORS, is_not_loaded, translate
from consumers.milvus.rows import Row
from consumers.sink import Change
from schema import collection
from schema.batches import bounded
from schema.events.events import ChunkRow, DocumentUpserted
from schema.failures import DocumentLost, Permanent
from schema.sinks import MILVUS, number_of

_ROWS_PER_REQUEST = 1_000
_REQUEST_BYTES = 16 * 1024 * 1024
_DOCUMENTS_PER_QUERY = 100
_ANSWER_BYTES = 32 * 1024 * 1024


class MilvusSink:
    """The collection of the instance `name` of a system, of vectors with `dimension` float32 numbers.

    `alias` names the collections of the system. With `is_serving`, `create` lets the alias point to this collection.
    `index` is that of the vectors: `index_type` and `params`; without it HNSW, or FLAT in Milvus Lite.
    `timeout_seconds` limits each request.
    """

    takes_vectors = True
    takes_files = False

    def __init__(
        self,
        client: MilvusClient,
        dimension: int,
        system_id: str,
        alias: str = collection.ALIAS,
        *,
        name: str = MILVUS,
        is_serving: bool = True,
        index: Mapping[str, Any] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.name = name
        self.collection = collection.name_of(alias, number_of(name))
        self._client = client
        self._is_serving = is_serving
        self._index = index
        self._timeout = timeout_seconds
        self._dimension = dimension
        self._system_id = system_id
        self._alias = alias
        self._with_sparse: bool | None = None  # whether the collection has sparse weights; None before `ensure`

    def create(self) -> None:
        try:
            if self._is_serving and milvus_collection.exists(self._client, self._alias):
                milvus_collection.require_own(self._client, self._alias, self._system_id)
            milvus_collection.create(self._client, self._dimension, self.collection, self._system_id, self._index)
            if self._is_serving:
                milvus_collection.point_alias(self._client, self._alias, self.collection, self._system_id)
            self._client.load_collection(self.collection, timeout=milvus_collection.TIMEOUT_SECONDS)
        except ERRORS as error:
            raise translate(error) from error
        self.ensure()

    def ensure(self) -> None:
        try:
            milvus_collection.require_own(self._client, self.collection, self._system_id, self._timeout)
            stored = milvus_collection.stored_fields(self._client, self.collection, self._timeout)
        except ERRORS as error:
            raise translate(error) from error
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
            replaced = [change.doc_id for change in changes if change.replace]
            self._delete(self._find_others(replaced, upserts.keys() | labels.keys()))
        except ERRORS as error:
            raise self._translate(error) from error

    def close(self) -> None:
        self._client.close()

    def _row(self, event: DocumentUpserted, chunk: ChunkRow) -> Row:
        return milvus_rows.row(event, chunk, self._dimension, with_sparse=bool(self._with_sparse))

    def _write(self, rows: Iterable[Row]) -> None:
        for some in bounded(rows, _ROWS_PER_REQUEST, _REQUEST_BYTES, milvus_rows.size_bytes):
            milvus_upsert.upsert(self._client, self.collection, some, timeout_seconds=self._timeout)

    def _relabel(self, labels: Mapping[str, Row]) -> None:
        """Read the rows with their vectors and write them back with new labels: Milvus has no update in place."""
        largest = milvus_rows.largest_bytes(self._dimension)
        for some in bounded(labels, _ROWS_PER_REQUEST, _ANSWER_BYTES, lambda _: largest):
            found = self._client.query(
                self.collection,
                filter=_among(map(collection.literal, some)),
                output_fields=["*"],
                timeout=self._timeout,
                consistency_level="Strong",  # the default may not see the newest writes
            )
            if len(found) < len(some):
                missing = set(some) - {row["chunk_id"] for row in found}
                raise DocumentLost(f"Milvus lacks {len(missing)} marked chunks, one is {min(missing)}")
            self._write({**row, **labels[row["chunk_id"]]} for row in found)

    def _delete(self, chunk_ids: Iterable[str]) -> None:
        """Delete by a list of primary keys, for which Milvus needs no search."""
        ids = map(collection.literal, chunk_ids)
        for some in bounded(ids, _ROWS_PER_REQUEST, _REQUEST_BYTES, lambda literal: 4 * len(literal)):
            self._client.delete(self.collection, filter=_among(some), timeout=self._timeout)

    def _find_others(self, doc_ids: Sequence[str], listed: AbstractSet[str]) -> list[str]:
        """The ids of all rows of these documents that are not `listed`."""
        found: list[str] = []
        for some in bounded(map(collection.literal, doc_ids), _DOCUMENTS_PER_QUERY):
            rows = self._client.query(  # no iterator: that of Milvus 2.3 does not see the newest writes
                self.collection,
                filter=f"doc_id in [{', '.join(some)}]",
                output_fields=["chunk_id"],
                timeout=self._timeout,
                consistency_level="Strong",
            )
            found += [row["chunk_id"] for row in rows if row["chunk_id"] not in listed]
        return found

    def _is_missing(self) -> bool:
        try:
            return not milvus_collection.exists(self._client, self.collection, self._timeout)
        except ERRORS:
            return False  # unknown

    def _translate(self, error: Exception) -> Exception:
        """The error to raise. Starts to load a collection that was released."""
        if isinstance(error, MilvusException) and self._is_missing():
            return milvus_collection.missing(self.collection)
        if is_not_loaded(error):
            try:
                self._client.load_collection(self.collection, timeout=self._timeout, _async=True)
            except ERRORS as failure:
                return translate(failure)
        return translate(error)


def _among(literals: Iterable[str]) -> str:
    return f"chunk_id in [{', '.join(literals)}]"
