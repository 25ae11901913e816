"""`rag-outbox search`: chunks by meaning, with the document that they belong to."""

import json
from dataclasses import dataclass
from typing import Any

from pymilvus import MilvusClient
from sqlalchemy import select

from operations.wiring import System
from schema import collection
from schema.database.connection import reading
from schema.database.tables import chunks, documents

_TIMEOUT_SECONDS = 30.0
_SPARE = 20  # more hits than asked: some may belong to chunks that are on their way out
_HIT_FIELDS = ["chunk_id", "doc_id", "content", "vector_level", "modal_type", "business_tag"]


@dataclass(frozen=True)
class Hit:
    """`score`: cosine similarity, 1 is the same direction. `file`: where the original lies, if there is one."""

    score: float
    doc_id: str
    title: str
    content: str
    file: str | None
    source_url: str | None
    business_tag: str | None
    modal_type: str


def search(
    system: System, text: str, *, limit: int, business_tag: str | None = None, modal_type: str | None = None
) -> list[Hit]:
    """The chunks nearest in meaning, best first; chunks that MySQL no longer has are left out."""
    vector = system.require_embedder().embed([text])[0]
    labels = {"business_tag": business_tag, "modal_type": modal_type}
    expression = " and ".join(f"{name} == {json.dumps(value)}" for name, value in labels.items() if value is not None)

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

    found = system.with_milvus(ask)
    living = _living(system, [hit["entity"]["chunk_id"] for hit in found])
    hits = [
        _hit(system, hit, living[hit["entity"]["chunk_id"]]) for hit in found if hit["entity"]["chunk_id"] in living
    ]
    return hits[:limit]


def _living(system: System, chunk_ids: list[str]) -> dict[str, Any]:
    columns = (documents.c.title, documents.c.oss_key, documents.c.source_url)
    joined = select(chunks.c.chunk_id, *columns).join(documents).where(chunks.c.chunk_id.in_(chunk_ids))
    with reading(system.engine) as connection:
        return {row.chunk_id: row for row in connection.execute(joined)}


def _hit(system: System, found: dict[str, Any], row: Any) -> Hit:
    entity = found["entity"]
    return Hit(
        score=round(float(found["distance"]), 4),
        doc_id=entity["doc_id"],
        title=row.title,
        content=entity["content"],
        file=system.store.location(row.oss_key) if row.oss_key else None,
        source_url=row.source_url,
        business_tag=entity["business_tag"] or None,
        modal_type=entity["modal_type"],
    )
