"""Search: the chunks nearest in meaning, each with its document.

MySQL decides what exists and which labels it has: a chunk of a deleted document is never a hit, nor is one whose
document has a filtered label no longer. A chunk that an update is just replacing stays a hit until the sink has its
successor, so that no document vanishes; it says so by `stale`.

An index of Milvus that is a graph (HNSW) leads from a row to its neighbours. Among thousands of nearly equal rows these
are all of the same table, so that a better hit elsewhere is not found. So Milvus is asked for text separately if there
are tables, and again without a document that fills an answer alone: docs/decisions/0023.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from sqlalchemy import Connection, Engine, Row, Select, select

from schema import collection
from schema.database.connection import reading
from schema.database.statements import select_for_ids
from schema.database.tables import chunk_tombstones, chunks, documents
from schema.object_store.port import ObjectStore

T = TypeVar("T")
_Found = dict[str, Any]  # a row of Milvus, with its distance

_TIMEOUT_SECONDS = 30.0
_SPARE = 20  # more hits than requested: some chunks may just have left their document
_GROWTH, _MOST = 4, 2_000  # how many more are asked for when too few are left, and how many at most
_HIT_FIELDS = ["chunk_id", "doc_id", "doc_version", "content", "modal_type"]
_DOCUMENT_COLUMNS = [
    documents.c[name]
    for name in ("title", "oss_key", "source_url", "source_type", "business_tag", "domain", "language")
]
_CHUNKS = select(chunks.c.chunk_id, chunks.c.row_version, chunks.c.modal_type, *_DOCUMENT_COLUMNS).join(documents)
_TABLES = select(chunks.c.chunk_id).where(chunks.c.vector_level.in_(("table", "row", "col", "cell"))).limit(1)
_TEXT = 'vector_level == "text"'  # every other level is of a table
_REPLACED = select(chunk_tombstones.c.chunk_id, *_DOCUMENT_COLUMNS).join(
    documents, documents.c.doc_id == chunk_tombstones.c.doc_id
)


class Milvus(Protocol):
    def __call__(self, work: Callable[[MilvusClient], T], /) -> T:
        """Call `work` with a connected client, again if Milvus fails temporarily. Returns its result."""


@dataclass(frozen=True)
class Filters:
    """The labels that a hit must have; None does not filter. The first two are also in Milvus."""

    business_tag: str | None = None
    modal_type: str | None = None
    domain: str | None = None
    language: str | None = None
    source_type: str | None = None

    def expression(self) -> str:
        """The filter expression for Milvus, empty for none."""
        labels = {"business_tag": self.business_tag, "modal_type": self.modal_type}
        return " and ".join(
            f"{name} == {collection.literal(value)}" for name, value in labels.items() if value is not None
        )

    def accept(self, row: Row[Any], modal_type: str) -> bool:
        """Whether a document with these columns, and a chunk of this type in it, have all labels."""
        if self.modal_type not in (None, modal_type):
            return False
        names = ("business_tag", "domain", "language", "source_type")
        return all(getattr(self, name) in (None, getattr(row, name)) for name in names)


NO_FILTERS = Filters()


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `score` is the cosine similarity, at most 1; `file` says where the original is stored.

    `stale`: Milvus holds an older state of the chunk than MySQL; its content may just be leaving the document.
    """

    score: float
    doc_id: str
    title: str
    content: str
    file: str | None
    source_url: str | None
    business_tag: str | None
    modal_type: str
    stale: bool


def search(
    engine: Engine,
    store: ObjectStore,
    milvus: Milvus,
    vector: Sequence[float] | npt.NDArray[np.floating],
    *,
    limit: int,
    filters: Filters = NO_FILTERS,
    alias: str = collection.ALIAS,
) -> list[Hit]:
    """At most `limit` chunks nearest to `vector`, best first. `vector` has the dimension of the system.

    A document is judged by its current labels in MySQL. One that has just got the filtered tag or type is not found
    until Milvus has it too. Of the 2,000 nearest chunks, those that pass the filters are hits: `domain`, `language` and
    `source_type`, which Milvus does not hold, may leave fewer than `limit`. `alias` is that of the collection. Raises
    MilvusException, and grpc.RpcError when Milvus does not answer within 30 seconds.
    """
    with reading(engine) as connection:
        has_tables = connection.execute(_TABLES).first() is not None
    find = partial(_find, alias=alias, vector=vector, filters=filters, has_tables=has_tables)
    count = limit + _SPARE
    while True:
        found, has_more = milvus(partial(find, count=count))
        hits = _judge(engine, store, found, filters)
        if len(hits) >= limit or not has_more or count >= _MOST:
            return hits[:limit]
        count = min(_GROWTH * count, _MOST)


def _find(
    client: MilvusClient,
    *,
    alias: str,
    vector: Sequence[float] | npt.NDArray[np.floating],
    filters: Filters,
    has_tables: bool,
    count: int,
) -> tuple[list[_Found], bool]:
    """The `count` nearest rows of Milvus, and as many of those that they may hide, best first. At most four requests.

    Returns also whether Milvus may have more of them.
    """
    found: dict[str, _Found] = {}
    has_more = False
    for level in ("", _TEXT) if has_tables else ("",):
        without = ""
        for _ in range(2):
            expression = " and ".join(filter(None, (filters.expression(), level, without)))
            rows = _ask(client, alias, vector, expression, count)
            found |= {row["entity"]["chunk_id"]: row for row in rows}
            has_more |= len(rows) == count
            doc_ids = {row["entity"]["doc_id"] for row in rows}
            if len(doc_ids) != 1:
                break
            without = f"doc_id != {collection.literal(doc_ids.pop())}"
    return sorted(found.values(), key=lambda row: row["distance"], reverse=True), has_more


def _ask(
    client: MilvusClient,
    alias: str,
    vector: Sequence[float] | npt.NDArray[np.floating],
    expression: str,
    count: int,
) -> list[_Found]:
    """The nearest rows of Milvus. Loads the collection only if it is not: asking takes as long as a search."""

    def ask() -> list[_Found]:
        found = client.search(
            alias,
            data=[vector],
            anns_field="vector",
            filter=expression,
            limit=count,
            search_params=collection.search_params(count),
            output_fields=_HIT_FIELDS,
            timeout=_TIMEOUT_SECONDS,
        )
        return list(found[0])

    try:
        return ask()
    except MilvusException as error:
        if error.code not in collection.NOT_LOADED_CODES:
            raise
    client.load_collection(alias, timeout=_TIMEOUT_SECONDS)
    return ask()


def _judge(engine: Engine, store: ObjectStore, found: Iterable[_Found], filters: Filters) -> list[Hit]:
    """The hits among the rows of Milvus, in their order."""
    entities = {hit["entity"]["chunk_id"]: (hit["entity"], hit["distance"]) for hit in found}
    with reading(engine) as connection:
        current = _select(connection, _CHUNKS, chunks.c.chunk_id, entities)
        others = [chunk_id for chunk_id in entities if chunk_id not in current]
        replaced = _select(
            connection, _REPLACED.where(documents.c.deleted_at.is_(None)), chunk_tombstones.c.chunk_id, others
        )
    hits = []
    for chunk_id, (entity, distance) in entities.items():
        if row := current.get(chunk_id):
            modal_type, stale = row.modal_type, entity["doc_version"] < row.row_version
        elif row := replaced.get(chunk_id):
            modal_type, stale = entity["modal_type"], True
        else:
            continue
        if filters.accept(row, modal_type):
            hits.append(_hit(store, entity, distance, row, modal_type, stale))
    return hits


def _select(
    connection: Connection, statement: Select[Any], key: Any, chunk_ids: Iterable[str]
) -> Mapping[str, Row[Any]]:
    """Chunk id → row, for the chunks that the statement finds."""
    return {row.chunk_id: row for row in select_for_ids(connection, statement, key, chunk_ids)}


def _hit(
    store: ObjectStore, entity: Mapping[str, Any], distance: float, row: Row[Any], modal_type: str, stale: bool
) -> Hit:
    return Hit(
        score=round(float(distance), 4),
        doc_id=entity["doc_id"],
        title=row.title,
        content=entity["content"],
        file=store.location(row.oss_key) if row.oss_key else None,
        source_url=row.source_url,
        business_tag=row.business_tag,
        modal_type=modal_type,
        stale=stale,
    )
