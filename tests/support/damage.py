"""Damage to the stores, one kind per document, with what reconcile must call it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from producer import Document, DocumentFile
from schema import archive
from schema.object_store import layout
from tests.contracts.object_store import put
from tests.support.pipeline import Pipeline, document, vector

Found = tuple[str, str, str]  # store, kind, document
LARGE = b"x" * 70_000  # staged: a refill copies it again


@dataclass(frozen=True)
class Damage:
    """`lost`: MySQL, archive and staging together cannot give it back; the document must be written again."""

    doc_id: str
    do: Callable[[Pipeline, str], Any]
    found: tuple[tuple[str, str], ...]  # store, kind
    lost: bool = False
    stays: bool = False  # no repair touches it


def written(pipeline: Pipeline, doc_id: str) -> Document:
    large = doc_id in {"object-lost", "object-truncated"}
    file = DocumentFile.from_bytes(LARGE, "a.md", pipeline.store) if large else b"file"
    return document(doc_id, f"{doc_id} one", f"{doc_id} two", f"{doc_id} three", file=file, business_tag="tag")


def row_of(pipeline: Pipeline, doc_id: str) -> dict[str, Any]:
    """The row of its first chunk, whole."""
    found = pipeline.milvus.query(
        "rag_vectors", filter=f'doc_id == "{doc_id}"', output_fields=["*"], consistency_level="Strong"
    )
    return dict(min(found, key=lambda row: str(row["chunk_id"])))


def remove_row(pipeline: Pipeline, doc_id: str) -> None:
    pipeline.milvus.delete("rag_vectors", ids=[row_of(pipeline, doc_id)["chunk_id"]])


def change_row(**values: Any) -> Callable[[Pipeline, str], None]:
    def change(pipeline: Pipeline, doc_id: str) -> None:
        pipeline.milvus.upsert("rag_vectors", [row_of(pipeline, doc_id) | values])

    return change


def add_row(chunk_id: str, **values: Any) -> Callable[[Pipeline, str], None]:
    """A row of a chunk that no document has."""

    def add(pipeline: Pipeline, doc_id: str) -> None:
        row = row_of(pipeline, "whole") | {"chunk_id": chunk_id, "doc_id": doc_id} | values
        pipeline.milvus.upsert("rag_vectors", [row])

    return add


def sql(statement: str) -> Callable[[Pipeline, str], None]:
    return lambda pipeline, doc_id: pipeline.execute(statement, doc_id=doc_id)


def key_of(pipeline: Pipeline, doc_id: str) -> str:
    [(key,)] = pipeline.sql("SELECT object_key FROM document_files WHERE doc_id = :doc_id", doc_id=doc_id)
    return str(key)


def remove_object(pipeline: Pipeline, doc_id: str) -> None:
    pipeline.store.remove([key_of(pipeline, doc_id)])


def truncate_object(pipeline: Pipeline, doc_id: str) -> None:
    put(pipeline.store, key_of(pipeline, doc_id), b"half of i")


def add_object(key: str) -> Callable[[Pipeline, str], None]:
    return lambda pipeline, doc_id: put(pipeline.store, key.format(doc_id=doc_id), b"stray")


def remove_archive(pipeline: Pipeline, doc_id: str) -> None:
    archive.remove(pipeline.store, doc_id)


def truncate_archive(pipeline: Pipeline, doc_id: str) -> None:
    [key] = archive.keys(pipeline.store, doc_id)
    put(pipeline.store, key, pipeline.store.read(key)[:-9])


def delete_then(add: Callable[[Pipeline, str], None]) -> Callable[[Pipeline, str], None]:
    def delete(pipeline: Pipeline, doc_id: str) -> None:
        pipeline.delete(doc_id)
        pipeline.run()
        add(pipeline, doc_id)

    return delete


def unpublish(pipeline: Pipeline, doc_id: str) -> None:
    """A version whose event is lost: pending, two hours old, and its outbox row is gone."""
    pipeline.upsert(document(doc_id, "another text", business_tag="new"))
    pipeline.execute("DELETE FROM outbox")
    pipeline.execute(
        "UPDATE sink_states SET requested_at = '2020-01-01 00:00:00' WHERE doc_id = :doc_id", doc_id=doc_id
    )


MILVUS, MINIO = "milvus", "minio"
_STATUS = "UPDATE documents SET status = '{}' WHERE doc_id = :doc_id"
DAMAGES = [
    Damage("row-removed", remove_row, ((MILVUS, "missing"),)),
    Damage("row-tag", change_row(business_tag="other"), ((MILVUS, "stale"),)),
    Damage("row-level", change_row(vector_level="table"), ((MILVUS, "stale"),)),
    Damage("row-hash", change_row(content_hash="0" * 64), ((MILVUS, "stale"),)),
    Damage("row-version", change_row(doc_version=7), ((MILVUS, "stale"),)),
    Damage("row-document", change_row(doc_id="whole"), ((MILVUS, "stale"),)),
    Damage("row-vector", change_row(vector=vector("other")), ((MILVUS, "stale"),)),
    Damage("row-added", add_row("f" * 32), ((MILVUS, "orphaned"),)),
    Damage("row-of-odd-key", add_row('ø "quoted" \\ key'), ((MILVUS, "orphaned"),)),
    Damage("row-of-deleted", delete_then(add_row("0" * 32)), ((MILVUS, "orphaned"),)),
    Damage("unknown-row", add_row("a" * 32, doc_version=3), ((MILVUS, "orphaned"),)),
    Damage("unmarked", sql("UPDATE chunks SET milvus_synced = 0 WHERE doc_id = :doc_id"), ((MILVUS, "mismarked"),)),
    Damage("status-early", sql(_STATUS.format("pending")), (("mysql", "mismarked"),)),
    Damage("status-failed", sql(_STATUS.format("failed")), (("mysql", "mismarked"),)),
    Damage("count", sql("UPDATE documents SET chunk_count = 9 WHERE doc_id = :doc_id"), (("mysql", "incomplete"),)),
    Damage(
        "tombstone",
        sql("INSERT INTO chunk_tombstones (chunk_id, doc_id, removed_in_version) VALUES ('gone', :doc_id, 1)"),
        ((MILVUS, "mismarked"),),
    ),
    Damage("object-lost", remove_object, ((MINIO, "missing"),)),
    Damage("object-truncated", truncate_object, ((MINIO, "stale"),)),
    Damage("small-object-lost", remove_object, ((MINIO, "missing"),), lost=True),
    Damage("object-added", add_object("processed-data/tables/{doc_id}/table_1.json"), ((MINIO, "orphaned"),)),
    Damage("original-added", add_object("raw-files/pdf/2020/02/03/{doc_id}.pdf"), ((MINIO, "orphaned"),)),
    Damage("unknown-original", add_object("raw-files/pdf/2020/02/03/{doc_id}.pdf"), ((MINIO, "orphaned"),)),
    Damage("unknown-text", add_object("processed-data/extracted-text/{doc_id}.txt"), ((MINIO, "orphaned"),)),
    Damage("unknown-archive", add_object(layout.embeddings_key("{doc_id}", 4, 1)), ((MINIO, "orphaned"),)),
    Damage(
        "archive-of-deleted", delete_then(add_object(layout.embeddings_key("{doc_id}", 1, 1))), ((MINIO, "orphaned"),)
    ),
    Damage("archive-lost", remove_archive, ((MINIO, "missing"),), lost=True),
    Damage("archive-truncated", truncate_archive, ((MINIO, "missing"),), lost=True),
    Damage("event-lost", unpublish, ((MILVUS, "stuck"), (MINIO, "stuck")), lost=True),
    Damage("foreign", add_object("elsewhere/{doc_id}.bin"), ((MINIO, "foreign"),), stays=True),
]
_NEVER_WRITTEN = ("unknown", "foreign")


def prepare(pipeline: Pipeline) -> None:
    """All documents, in step in every store, one untouched."""
    ids = ["whole", *(one.doc_id for one in DAMAGES if not one.doc_id.startswith(_NEVER_WRITTEN))]
    pipeline.upsert(*(written(pipeline, doc_id) for doc_id in ids))
    pipeline.run()


def expected() -> Iterator[Found]:
    for one in DAMAGES:
        for store, kind in one.found:
            yield store, kind, "" if one.stays else one.doc_id
