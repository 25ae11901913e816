"""The old Milvus collection: vectors, sparse weights and texts by the ids that the old platform gave its chunks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pymilvus import DataType, MilvusClient

from consumers.milvus.collection import TIMEOUT_SECONDS
from consumers.milvus.errors import ERRORS, translate
from operations.adopt.errors import MappingError, SourceError
from operations.adopt.mapping import Mapping as AdoptMapping
from operations.adopt.mapping import Milvus, suggest, variable
from operations.wiring import System
from schema import collection, limits
from schema.batches import bounded
from schema.failures import Retryable
from schema.retry import Backoff, call_with_retry

T = TypeVar("T")
_ROWS_PER_QUERY = 1_000
_ANSWER_BYTES = 32 * 1024 * 1024
_SPARSE_BYTES = 8  # per entry
_OTHER_BYTES = 512  # upper bound: an id and the encoding
_ATTEMPTS = 6
_BACKOFF = Backoff(0.2, 5.0)
_CONNECT_SECONDS = 5.0
_IDS = {DataType.INT64, DataType.VARCHAR}


@dataclass(frozen=True)
class OldVector:
    """What the old collection holds for a chunk."""

    vector: npt.NDArray[np.float32]
    sparse: Mapping[int, float] | None


class OldCollection:
    """The old collection, checked: it has the fields of the mapping, and vectors of the system's dimension."""

    def __init__(self, client: MilvusClient, mapping: Milvus, id_field: str, dimension: int, *, text_ids: bool) -> None:
        self._client = client
        self._mapping = mapping
        self._id = id_field
        self._text_ids = text_ids
        content = 0 if mapping.content is None else limits.CONTENT_BYTES
        self._text_bytes = _OTHER_BYTES + content
        sparse = 0 if mapping.sparse is None else _SPARSE_BYTES * limits.SPARSE_ENTRIES
        self._vector_bytes = _OTHER_BYTES + 4 * dimension + sparse

    @property
    def name(self) -> str:
        return self._mapping.collection

    def vectors(self, ids: Sequence[Any]) -> dict[str, list[OldVector]]:
        """Id → the vectors of the rows with this id: none, one, or, in a field that is no key, several."""
        fields = [name for name in (self._mapping.vector, self._mapping.sparse) if name is not None]
        found: dict[str, list[OldVector]] = {}
        for row in self._query(ids, fields, self._vector_bytes):
            vector = np.asarray(row[self._mapping.vector], "<f4")
            sparse = None if self._mapping.sparse is None else row.get(self._mapping.sparse)
            found.setdefault(str(row[self._id]), []).append(OldVector(vector, sparse))
        return found

    def texts(self, ids: Sequence[Any]) -> dict[str, str | None]:
        """Id → the content field of its row."""
        name = self._mapping.content
        assert name is not None
        return {str(row[self._id]): row.get(name) for row in self._query(ids, [name], self._text_bytes)}

    def _query(self, ids: Sequence[Any], fields: Sequence[str], row_bytes: int) -> Iterator[dict[str, Any]]:
        for some in bounded(self._literals(ids), _ROWS_PER_QUERY, _ANSWER_BYTES, lambda _: row_bytes):
            yield from _call(
                partial(
                    self._client.query,
                    self._mapping.collection,
                    filter=f"{self._id} in [{', '.join(some)}]",
                    output_fields=[self._id, *fields],
                    timeout=TIMEOUT_SECONDS,
                    consistency_level="Strong",  # the default may not see the newest writes
                )
            )

    def _literals(self, ids: Iterable[Any]) -> Iterator[str]:
        """Ids as the field takes them; one that it cannot hold is left out, so it is not found."""
        for text in dict.fromkeys(map(str, ids)):
            if self._text_ids:
                yield collection.literal(text)
            elif text.removeprefix("-").isdecimal() and text.isascii() and -(2**63) <= int(text) < 2**63:
                yield text


@contextmanager
def open_collection(system: System, mapping: AdoptMapping) -> Iterator[OldCollection]:
    """Connect to the old collection and check it. Raises MappingError, SourceError."""
    old, ours = mapping.milvus, system.identity
    if old.model != ours.embedding_model:
        raise MappingError(
            f"[milvus] model: the system's model is {ours.embedding_model!r}, the old vectors are of {old.model!r}; "
            "vectors of another model cannot be adopted: initialise the system with theirs, or embed again"
        )
    with _connect(system, old) as client:
        name = old.collection
        if not _call(lambda: client.has_collection(name, timeout=TIMEOUT_SECONDS)):
            there = _call(lambda: client.list_collections(timeout=TIMEOUT_SECONDS))
            raise MappingError(f"[milvus] collection: there is no collection {name!r}{suggest(name, there)}")
        described = _call(lambda: client.describe_collection(name, timeout=TIMEOUT_SECONDS))
        fields = {field["name"]: field for field in described["fields"]}
        primary = next(field["name"] for field in described["fields"] if field.get("is_primary"))
        id_field = old.id or primary
        _check(old, id_field, fields, ours.dimension)
        _call(lambda: client.load_collection(name, timeout=TIMEOUT_SECONDS))
        text_ids = fields[id_field]["type"] == DataType.VARCHAR
        yield OldCollection(client, old, id_field, ours.dimension, text_ids=text_ids)


def _check(old: Milvus, id_field: str, fields: Mapping[str, Any], dimension: int) -> None:
    wanted = {"id": id_field, "vector": old.vector, "sparse": old.sparse, "content": old.content}
    types = {
        "id": _IDS,
        "vector": {DataType.FLOAT_VECTOR},
        "sparse": {DataType.SPARSE_FLOAT_VECTOR},
        "content": {DataType.VARCHAR},
    }
    for key, name in wanted.items():
        if name is None:
            continue
        if name not in fields:
            hint = suggest(name, fields)
            raise MappingError(f"[milvus] {key}: the collection {old.collection} has no field {name!r}{hint}")
        if (found := fields[name]["type"]) not in types[key]:
            needed = " or ".join(sorted(one.name for one in types[key]))
            raise MappingError(f"[milvus] {key}: the field {name!r} must be {needed}, is {DataType(found).name}")
    found = int(fields[old.vector]["params"]["dim"])
    if found != dimension:
        raise MappingError(
            f"[milvus] vector: the field {old.vector!r} has {found} dimensions, the system {dimension}: "
            "initialise a system with the old platform's model and dimension"
        )


@contextmanager
def _connect(system: System, old: Milvus) -> Iterator[MilvusClient]:
    if old.uri is None:
        with system.milvus(own=False) as client:
            yield client
        return
    token = "" if old.token_env is None else variable(old.token_env, "milvus", "token_env")
    client = _call(lambda: MilvusClient(old.uri, token=token, timeout=_CONNECT_SECONDS))
    try:
        yield client
    finally:
        client.close()


def _call(request: Callable[[], T]) -> T:
    """Return the answer of a request; repeat it while Milvus fails temporarily. Raises SourceError."""
    try:
        return call_with_retry(
            request,
            retry_on=lambda error: isinstance(error, ERRORS) and isinstance(translate(error), Retryable),
            backoff=_BACKOFF,
            attempts=_ATTEMPTS,
        )
    except ERRORS as error:
        raise SourceError(f"old collection: {getattr(error, 'message', None) or translate(error)}") from error
