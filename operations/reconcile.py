"""Find differences between the metadata database, Milvus and the object store.

A difference is real only while nothing is pending: an event that is not applied yet is a difference, too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pymilvus import MilvusClient
from sqlalchemy import select

from operations.wiring import System
from schema.database.connection import reading
from schema.database.tables import chunks, document_files, documents, outbox
from schema.object_store import layout

_PAGE_ROWS = 5_000
_TIMEOUT_SECONDS = 60.0
_ROW_FIELDS = [
    "chunk_id",
    "doc_id",
    "content_hash",
    "business_tag",
    "vector_level",
    "modal_type",
    "associate_id",
    "oss_id",
]

Kind = Literal["missing", "left over", "doubled", "different", "unmarked", "incomplete", "pending"]


@dataclass(frozen=True)
class Difference:
    """`store` lacks the row or object `key`, has it though it should not, or has other content."""

    store: str
    kind: Kind
    key: str


def find_differences(system: System, client: MilvusClient) -> list[Difference]:
    """Every difference, in no particular order."""
    client.load_collection(system.settings.collection_alias, timeout=_TIMEOUT_SECONDS)
    return [*_documents(system), *_milvus(system, client), *_objects(system)]


def _documents(system: System) -> Iterator[Difference]:
    with reading(system.engine) as connection:
        for row in connection.execute(select(documents.c.doc_id, documents.c.status)):
            if row.status not in ("completed", "processing"):  # one without chunks yet is in no store incomplete
                yield Difference("mysql", "incomplete", row.doc_id)
        for event_id in connection.execute(select(outbox.c.event_id)).scalars():
            yield Difference("mysql", "pending", event_id)


def _milvus(system: System, client: MilvusClient) -> Iterator[Difference]:
    """Compare all rows with all chunks by key: equal counts could hide a lost row and a row left over."""
    wanted = _wanted_rows(system)
    seen: Counter[str] = Counter()
    for row in _milvus_rows(client, system.settings.collection_alias):
        chunk_id = row["chunk_id"]
        seen[chunk_id] += 1
        if chunk_id not in wanted:
            yield Difference("milvus", "left over", chunk_id)
        elif wanted[chunk_id] != tuple(row[name] for name in _ROW_FIELDS[1:]):
            yield Difference("milvus", "different", chunk_id)
    for chunk_id in wanted:
        if not seen[chunk_id]:
            yield Difference("milvus", "missing", chunk_id)
    yield from (Difference("milvus", "doubled", chunk_id) for chunk_id, count in seen.items() if count > 1)
    with reading(system.engine) as connection:
        unmarked = select(chunks.c.chunk_id).where(~chunks.c.milvus_synced)
        yield from (Difference("mysql", "unmarked", chunk_id) for chunk_id in connection.execute(unmarked).scalars())


def _wanted_rows(system: System) -> dict[str, tuple[str, ...]]:
    columns = (
        chunks.c.chunk_id,
        chunks.c.doc_id,
        chunks.c.content_hash,
        documents.c.business_tag,
        chunks.c.vector_level,
        chunks.c.modal_type,
        chunks.c.associate_id,
        documents.c.oss_key,
    )
    with reading(system.engine) as connection:
        rows = connection.execute(select(*columns).select_from(chunks.join(documents)))
        return {row[0]: tuple(value or "" for value in row[1:]) for row in rows}


def _milvus_rows(client: MilvusClient, alias: str) -> Iterator[dict[str, Any]]:
    pages = client.query_iterator(alias, batch_size=_PAGE_ROWS, output_fields=_ROW_FIELDS, timeout=_TIMEOUT_SECONDS)
    try:
        while page := pages.next():
            yield from page
    finally:
        pages.close()


def _objects(system: System) -> Iterator[Difference]:
    """Compare files with objects by digest; an archive must belong to a document that is not deleted.

    Staged objects are left to the sweep, which removes them a day later.
    """
    with reading(system.engine) as connection:
        files: Sequence[Any] = connection.execute(select(document_files)).all()
        living = set(connection.execute(select(documents.c.doc_id).where(documents.c.deleted_at.is_(None))).scalars())
    wanted = {row.object_key: row.sha256 for row in files if row.removed_in_version is None}
    archives = layout.embeddings_prefix("").rstrip("/") + "/"
    for key in system.store.keys(""):
        if key.startswith(layout.STAGING_PREFIX) or key == layout.SYSTEM_ID_KEY:
            continue
        if key.startswith(archives):
            if key.removeprefix(archives).split("/")[0] not in living:
                yield Difference("object store", "left over", key)
        elif key not in wanted:
            yield Difference("object store", "left over", key)
    for key, sha256 in wanted.items():
        found = system.store.sha256(key)
        if found != sha256:
            yield Difference("object store", "missing" if found is None else "different", key)
