"""Search: the chunks nearest in meaning, each with its document.

MySQL decides what exists: a chunk that only Milvus still holds is never a hit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pymilvus import MilvusClient
from sqlalchemy import Engine, select

from schema import collection
from schema.database.connection import reading
from schema.database.tables import chunks, documents
from schema.object_store.port import ObjectStore

T = TypeVar("T")

_TIMEOUT_SECONDS = 30.0
_SPARE = 20  # more hits than requested: some chunks may just have left their document
_HIT_FIELDS = ["chunk_id", "doc_id", "content", "vector_level", "modal_type", "business_tag"]


class Milvus(Protocol):
    def __call__(self, work: Callable[[MilvusClient], T], /) -> T:
        """Call `work` with a connected client, again if Milvus fails temporarily. Returns its result."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found. `score` is the cosine similarity, at most 1; `file` says where the original is stored."""

    score: float
    doc_id: str
    title: str
    content: str
    file: str | None
    source_url: str | None
    business_tag: str | None
    modal_type: str


def search(
    engine: Engine,
    store: ObjectStore,
    milvus: Milvus,
    vector: Sequence[float] | npt.NDArray[np.floating],
    *,
    limit: int,
    business_tag: str | None = None,
    modal_type: str | None = None,
    alias: str = collection.ALIAS,
) -> list[Hit]:
    """At most `limit` chunks nearest to `vector`, best first. `vector` has the dimension of the system.

    `business_tag` and `modal_type` filter by the labels in Milvus. `alias` is that of the collection. Raises
    MilvusException, and grpc.RpcError when Milvus does not answer within 30 seconds.
    """
    labels = {"business_tag": business_tag, "modal_type": modal_type}
    expression = " and ".join(
        f"{name} == {collection.literal(value)}" for name, value in labels.items() if value is not None
    )

    def ask(client: MilvusClient) -> list[dict[str, Any]]:
        client.load_collection(alias, timeout=_TIMEOUT_SECONDS)
        found = client.search(
            alias,
            data=[vector],
            anns_field="vector",
            filter=expression,
            limit=limit + _SPARE,
            output_fields=_HIT_FIELDS,
            timeout=_TIMEOUT_SECONDS,
        )
        return list(found[0])

    found = milvus(ask)
    owners = _owners(engine, [hit["entity"]["chunk_id"] for hit in found])
    hits = [_hit(store, hit, owners[hit["entity"]["chunk_id"]]) for hit in found if hit["entity"]["chunk_id"] in owners]
    return hits[:limit]


def _owners(engine: Engine, chunk_ids: list[str]) -> dict[str, Any]:
    """Chunk id → columns of its document, for the chunks that MySQL has."""
    columns = (documents.c.title, documents.c.oss_key, documents.c.source_url)
    joined = select(chunks.c.chunk_id, *columns).join(documents).where(chunks.c.chunk_id.in_(chunk_ids))
    with reading(engine) as connection:
        return {row.chunk_id: row for row in connection.execute(joined)}


def _hit(store: ObjectStore, found: dict[str, Any], row: Any) -> Hit:
    entity = found["entity"]
    return Hit(
        score=round(float(found["distance"]), 4),
        doc_id=entity["doc_id"],
        title=row.title,
        content=entity["content"],
        file=store.location(row.oss_key) if row.oss_key else None,
        source_url=row.source_url,
        business_tag=entity["business_tag"] or None,
        modal_type=entity["modal_type"],
    )
