"""One comparison of the three stores of a system; it shares no code with what brings them in step."""

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

FIELDS = [
    "chunk_id",
    "doc_id",
    "content_hash",
    "business_tag",
    "oss_id",
    "vector_level",
    "modal_type",
    "associate_id",
]
_CHUNKS = """
SELECT chunk_id, doc_id, content_hash, coalesce(business_tag, ''), coalesce(oss_key, ''),
       vector_level, modal_type, coalesce(associate_id, '')
FROM chunks JOIN documents USING (doc_id)
"""
_MISCOUNTED = "SELECT * FROM documents d WHERE chunk_count <> (SELECT count(*) FROM chunks WHERE doc_id = d.doc_id)"
_HELD = """
SELECT doc_id FROM documents JOIN sink_states USING (doc_id) WHERE applied_version = version AND state = 'applied'
"""
_ARCHIVES = "processed-data/embeddings/"


def assert_in_step(
    sql: Callable[[str], Sequence[Any]],
    milvus_rows: Collection[Mapping[str, Any]],
    objects: Mapping[str, bytes],
) -> None:
    """All stores hold the same documents; nothing is lost, doubled, left over, pending, dead or wrongly marked.

    `sql` returns the rows of a statement, `milvus_rows` have FIELDS and `content`, `objects` are bytes by key.
    """
    rows = sorted(tuple(row[name] for name in FIELDS) for row in milvus_rows)
    assert rows == sorted(tuple(row) for row in sql(_CHUNKS))
    assert all(sha256(row["content"].encode()).hexdigest() == row["content_hash"] for row in milvus_rows)
    for none in (
        "SELECT * FROM chunks WHERE NOT milvus_synced",
        "SELECT doc_id, status FROM documents WHERE status <> 'completed'",
        _MISCOUNTED,
        "SELECT * FROM outbox",
        "SELECT * FROM outbox_dead_letters",
        "SELECT * FROM chunk_tombstones",
        "SELECT * FROM document_files WHERE removed_in_version IS NOT NULL",
    ):
        assert list(sql(none)) == [], none
    documents = [doc_id for (doc_id,) in sql("SELECT doc_id FROM documents")]
    assert sorted(doc_id for (doc_id,) in sql(_HELD)) == sorted(2 * documents)
    assert len(sql("SELECT * FROM sink_states")) == 2 * len(documents)
    _assert_objects_in_step(sql, objects)


def _assert_objects_in_step(sql: Callable[[str], Sequence[Any]], objects: Mapping[str, bytes]) -> None:
    archives = {key for key in objects if key.startswith(_ARCHIVES)}
    staged = {key for key in objects if key.startswith("temp/")}  # the sweep removes them a day later
    others = archives | staged | {key for key in objects if key.startswith("backups/")}
    files = {key: sha256(content).hexdigest() for key, content in objects.items() if key not in others}
    assert files == dict(map(tuple, sql("SELECT object_key, sha256 FROM document_files")))
    living = {doc_id for (doc_id,) in sql("SELECT doc_id FROM documents WHERE deleted_at IS NULL")}
    assert {key.split("/")[2] for key in archives} == living
