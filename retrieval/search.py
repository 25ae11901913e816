"""Search: the chunks nearest in meaning, with the documents that they belong to."""

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
_SPARE = 20  # more hits than asked for: some may belong to chunks that have just left their document
_HIT_FIELDS = ["chunk_id", "doc_id", "content", "vector_level", "modal_type", "business_tag"]


class Milvus(Protocol):
    def __call__(self, work: Callable[[MilvusClient], T], /) -> T:
        """Run `work` with a connected client; run it again when Milvus fails and may answer later."""


@dataclass(frozen=True)
class Hit:
    """`score`: cosine similarity, 1 is the same direction. `file`: where the original is stored, if there is one."""

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
) -> list[Hit]:
    """The chunks nearest to `vector`, which has the system's dimension, best first.

    Chunks that MySQL no longer has are left out. `business_tag` and `modal_type` filter by the labels that Milvus
    holds. Raises MilvusException.
    """
    labels = {"business_tag": business_tag, "modal_type": modal_type}
    expression = " and ".join(
        f"{name} == {collection.literal(value)}" for name, value in labels.items() if value is not None
    )

    def ask(client: MilvusClient) -> list[dict[str, Any]]:
        client.load_collection(collection.ALIAS, timeout=_TIMEOUT_SECONDS)
        found = client.search(
            collection.ALIAS,
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
    """The document's columns of each chunk that MySQL has."""
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
