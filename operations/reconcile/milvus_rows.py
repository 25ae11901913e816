"""Rows of the collection, read column by column: pymilvus makes a dict of every row, which takes most of the time."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pymilvus import MilvusClient
from pymilvus.client.prepare import Prepare
from pymilvus.client.types import Status
from pymilvus.client.utils import check_status

from consumers.milvus.collection import TIMEOUT_SECONDS
from consumers.milvus.errors import ERRORS, translate
from operations.reconcile.packed_rows import pack
from schema import collection
from schema.retry import call_with_retry
from schema.sinks import MILVUS

FIELDS: Final = (
    "chunk_id",
    "doc_id",
    "content_hash",
    "business_tag",
    "vector_level",
    "modal_type",
    "associate_id",
    "oss_id",
    "doc_version",
)
Found = tuple[Any, ...]  # the values of FIELDS
Packed = dict[str, int]  # by the text of a row (`packed_rows`), its doc_version

_STRONG: Final = {"use_default_consistency": False, "consistency_level": 0}
_EVENTUAL: Final = {"use_default_consistency": False, "consistency_level": 3, "guarantee_timestamp": 1}
_MOST_ROWS = 16_384  # Milvus: the largest limit of a query
_PATIENCE_SECONDS = 60.0


class MilvusRows:
    """Reads the collection of the instance `sink`, whose name is given.

    Raises Retryable or Permanent when Milvus does not answer for a minute.
    """

    def __init__(self, client: MilvusClient, name: str, sink: str = MILVUS) -> None:
        self.sink = sink
        self._client = client
        self._name = name

    def load(self) -> None:
        """Load the collection, which a query needs, and wait until it shows what was written before."""
        self._retry(lambda: self._client.load_collection(self._name, timeout=TIMEOUT_SECONDS))
        self.read_keys([""])

    def read_range(self, after: str, upto: str | None) -> Packed:
        """The rows whose chunk ids are in a range, in no order; the newest may be missing or old."""
        packed: Packed = {}
        ranges: list[tuple[str, str | None]] = [(after, upto)]
        while ranges:
            low, high = ranges.pop()
            *texts, versions = self._read(_between(low, high), FIELDS, _EVENTUAL, limit=_MOST_ROWS)
            if len(versions) < _MOST_ROWS:
                packed.update(zip(pack(zip(*texts, strict=True)), versions, strict=True))
                continue
            # Milvus Lite does not return the lowest keys first: halve the range instead of going on behind the last.
            middle = sorted(texts[0])[len(versions) // 2]
            ranges += [(low, middle), (middle, high)]
        return packed

    def read_keys(self, chunk_ids: Sequence[str]) -> list[Found]:
        """The rows of these chunks, the newest writes included."""
        return list(zip(*self._read(_among(chunk_ids), FIELDS, _STRONG), strict=True))

    def read_vectors(self, chunk_ids: Sequence[str]) -> dict[str, bytes]:
        """The vectors of these chunks as little-endian float32, the newest writes included."""
        import numpy as np

        rows = self._retry(
            lambda: self._client.query(
                self._name,
                filter=_among(chunk_ids),
                output_fields=["chunk_id", "vector"],
                timeout=TIMEOUT_SECONDS,
                consistency_level="Strong",
            )
        )
        return {row["chunk_id"]: np.asarray(row["vector"], "<f4").tobytes() for row in rows}

    def count_range(self, after: str, upto: str | None) -> int:
        """How many rows are in a range. Rows with the same key all count; a query shows one of them."""
        return self._count(_between(after, upto))

    def count_keys(self, chunk_ids: Sequence[str]) -> int:
        """How many rows have these keys, counted in the same way."""
        return self._count(_among(chunk_ids))

    def _count(self, condition: str) -> int:
        [row] = self._retry(
            lambda: self._client.query(
                self._name,
                filter=condition,
                output_fields=["count(*)"],
                timeout=TIMEOUT_SECONDS,
                consistency_level="Strong",
            )
        )
        return int(row["count(*)"])

    def _read(self, condition: str, fields: Sequence[str], consistency: Any, **limit: int) -> list[list[Any]]:
        """The columns of the rows that meet the condition."""
        columns: list[list[Any]] = self._retry(lambda: self._request(condition, fields, consistency, **limit))
        return columns

    def _request(self, condition: str, fields: Sequence[str], consistency: Any, **limit: int) -> list[list[Any]]:
        context = self._client._generate_call_context()
        request = Prepare.query_request(self._name, condition, list(fields), [], **consistency, **limit)
        stub = self._client._get_connection()._stub
        answer = stub.Query(request, timeout=TIMEOUT_SECONDS, metadata=context.to_grpc_metadata())
        if Status.EMPTY_COLLECTION in {answer.status.code, answer.status.error_code}:
            return [[] for _ in fields]
        check_status(answer.status)
        if not answer.fields_data:
            return [[] for _ in fields]
        columns = {one.field_name: _values(one) for one in answer.fields_data}
        return [columns[name] for name in fields]

    @staticmethod
    def _retry(work: Any) -> Any:
        def attempt() -> Any:
            try:
                return work()
            except ERRORS as error:
                raise translate(error) from error

        return call_with_retry(attempt, seconds=_PATIENCE_SECONDS)


def _among(chunk_ids: Iterable[str]) -> str:
    return f"chunk_id in [{', '.join(map(collection.literal, chunk_ids))}]"


def _between(after: str, upto: str | None) -> str:
    """The condition for the keys k with `after` < k <= `upto`; the empty key is in the first range."""
    condition = f"chunk_id {'>' if after else '>='} {collection.literal(after)}"
    return condition if upto is None else f"{condition} and chunk_id <= {collection.literal(upto)}"


def _values(column: Any) -> list[Any]:
    scalars = column.scalars
    return list(scalars.string_data.data or scalars.long_data.data)
