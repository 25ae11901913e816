"""A foreign writer that uses only SQL and JSON; rows that Milvus lost; files too large for an event."""

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from producer import DocumentFile, VectorRequired
from tests.support.pipeline import Pipeline, document, vector
from tests.support.refill import empty_milvus, refill_of

pytestmark = pytest.mark.integration

LARGE = b"0123456789abcdef" * 4_097  # 64 KiB and 16 bytes
DEAD = "SELECT stage, error FROM outbox_dead_letters"


def sha256(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def foreign_write(
    pipeline: Pipeline, version: int, words: Sequence[str], removed: Sequence[str], as_text: bool = False
) -> None:
    """The transaction of a service in another language. It leaves `sink_states` to the consumers."""
    ids = {word: sha256(f"foreign\0{sha256(word)}\0000")[:32] for word in (*words, *removed)}
    [(history_id,)] = pipeline.sql("SELECT history_id FROM system_identity")
    event = {
        "doc_id": "foreign",
        "version": version,
        "history_id": history_id,
        "embedding_model": "test-model",
        "dimension": 8,
        "title": "Fremd",
        "source_type": "webpage",
        "chunk_count": len(words),
        "business_tag": "hr",
        "chunks": [
            {
                "chunk_id": ids[word],
                "content_hash": sha256(word),
                "content": word,
                "vector": base64.b64encode(struct.pack("<8f", *vector(word))).decode(),
            }
            for word in words
        ],
        "tombstones": [ids[word] for word in removed],
        "a field that a later version adds": None,
    }
    payload = json.dumps(event)
    with pipeline.engine.begin() as connection:
        run = connection.exec_driver_sql
        if version == 1:
            run(
                "INSERT INTO documents (doc_id, version, history_id, title, source_type, business_tag, chunk_count)"
                " VALUES ('foreign', 1, ?, 'Fremd', 'webpage', 'hr', ?)",
                (history_id, len(words)),
            )
        else:
            run(
                "UPDATE documents SET version = ?, chunk_count = ?, status = 'pending' WHERE doc_id = 'foreign'",
                (version, len(words)),
            )
        run("DELETE FROM chunks WHERE doc_id = 'foreign'")
        for number, word in enumerate(words):
            run(
                "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash,"
                " char_count, vector_version, row_version) VALUES (?, 'foreign', ?, 'text', 'text', ?, ?, ?, ?, ?)",
                (ids[word], number, word, sha256(word), len(word), version, version),
            )
        for word in removed:
            run("INSERT INTO chunk_tombstones VALUES (?, 'foreign', ?)", (ids[word], version))
        run(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
            " VALUES (?, 'foreign', ?, 'rag.document.upserted.v1', 'application/json', ?)",
            (f"event-{version}", version, payload if as_text else payload.encode()),
        )


def test_documents_of_a_foreign_writer_reach_all_stores(pipeline: Pipeline) -> None:
    foreign_write(pipeline, 1, ["eins", "zwei"], [])
    pipeline.run()
    pipeline.assert_in_step()
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["eins", "zwei"]

    foreign_write(pipeline, 2, ["zwei", "drei"], ["eins"], as_text=True)
    pipeline.run()
    pipeline.assert_in_step()
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == ["drei", "zwei"]

    pipeline.upsert(document("foreign", "drei", "four", business_tag="hr"))  # our writer may update it
    pipeline.run()
    pipeline.assert_in_step()
    pipeline.delete("foreign")
    pipeline.run()
    pipeline.assert_in_step()
    assert pipeline.milvus_rows() == {}


def test_document_of_a_foreign_writer_is_not_completed_while_a_sink_lags(pipeline: Pipeline) -> None:
    foreign_write(pipeline, 1, ["eins"], [])
    pipeline.run()
    foreign_write(pipeline, 2, ["zwei"], ["eins"])
    milvus, minio = pipeline.appliers()
    for one, status in ((milvus, "pending"), (minio, "completed")):
        assert one.apply(pipeline.pending()) == []
        assert pipeline.sql("SELECT status FROM documents") == [(status,)]


def test_relabelling_a_lost_row_makes_the_document_absent_until_the_refill(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two"), document("b", "one"))
    pipeline.run()
    lost = next(key for key, row in pipeline.milvus_rows().items() if (row["doc_id"], row["content"]) == ("a", "two"))
    pipeline.milvus.delete("rag_vectors", ids=[lost])

    pipeline.upsert(document("a", "one", "two", business_tag="hr"), document("b", "one", business_tag="hr"))
    pipeline.run()
    assert pipeline.sql(DEAD) == []
    state = "SELECT state, last_error FROM sink_states WHERE doc_id = 'a' AND sink = 'milvus'"
    assert pipeline.sql(state) == [("absent", f"Milvus lacks 1 marked chunks, one is {lost}")]
    assert pipeline.sql("SELECT doc_id, status FROM documents ORDER BY doc_id") == [
        ("a", "pending"),
        ("b", "completed"),
    ]

    assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 1
    pipeline.assert_in_step()
    assert {row["business_tag"] for row in pipeline.milvus_rows().values()} == {"hr"}


def test_relabels_of_150_documents_that_milvus_lost_stop_nothing(pipeline: Pipeline) -> None:
    """After a failover of Milvus: more than the limit of dead letters."""
    names = [f"d{number}" for number in range(150)]
    pipeline.upsert(*(document(name, "one") for name in names))
    pipeline.run()
    empty_milvus(pipeline)
    pipeline.upsert(*(document(name, "one", business_tag="hr") for name in names))
    pipeline.run()
    assert pipeline.sql(DEAD) == []
    refill = refill_of(pipeline, pipeline.milvus_sink)
    assert [refill.run_round() for _ in range(2)] == [100, 50]
    pipeline.assert_in_step()


def test_failed_document_needs_its_vectors_again(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.execute("UPDATE outbox SET payload = x'00'")
    pipeline.run()
    with pytest.raises(VectorRequired), pipeline.engine.begin() as connection:
        pipeline.writer.resync(connection, "a")


def staged(pipeline: Pipeline, content: bytes, name: str = "original.pdf") -> DocumentFile:
    file = DocumentFile.from_bytes(content, name, pipeline.store)
    assert file.staged_key is not None
    assert pipeline.store.read(file.staged_key) == content
    return file


def raw_files(pipeline: Pipeline) -> dict[str, bytes]:
    """File name and source type → bytes, without the date in the key."""
    return {
        f"{key.split('/')[1]}/{key.rpartition('/')[2]}": content
        for key, content in pipeline.objects().items()
        if not key.startswith(("processed-data/embeddings/", "temp/"))
    }


def test_large_file_moves_from_staging_to_its_key(pipeline: Pipeline, tmp_path: Path) -> None:
    source = tmp_path / "original.pdf"
    source.write_bytes(LARGE)
    file = DocumentFile.from_path(source, pipeline.store)
    pipeline.upsert(document("a", "one", file=file, source_type="pdf"))
    events = pipeline.pending()
    assert len(events[0].payload) < 2_000
    pipeline.run()
    assert raw_files(pipeline) == {"pdf/a.pdf": LARGE}
    pipeline.assert_in_step()

    pipeline.execute("UPDATE sink_states SET applied_version = 0, state = 'pending'")  # as if the marks were lost
    for one in pipeline.appliers():
        assert one.apply(events) == []
    assert raw_files(pipeline) == {"pdf/a.pdf": LARGE}
    pipeline.assert_in_step()


def test_missing_staged_file_is_a_dead_letter_until_the_next_version(pipeline: Pipeline) -> None:
    file = staged(pipeline, LARGE)
    assert file.staged_key is not None
    pipeline.store.remove([file.staged_key])
    pipeline.upsert(document("a", "one", file=file))
    pipeline.run()
    key = pipeline.sql("SELECT oss_key FROM documents")[0].oss_key
    assert pipeline.sql(DEAD) == [("minio", f"the staged object {file.staged_key!r} of file {key!r} is gone")]
    assert pipeline.sql("SELECT status FROM documents") == [("failed",)]

    pipeline.upsert(document("a", "one", file=staged(pipeline, LARGE)))
    pipeline.run()
    pipeline.execute("DELETE FROM outbox_dead_letters")
    pipeline.assert_in_step()


def test_older_file_does_not_replace_a_missing_staged_file(pipeline: Pipeline) -> None:
    """The key holds the bytes of the previous version, which are not the new file."""
    pipeline.upsert(document("a", "one", file=staged(pipeline, LARGE)))
    pipeline.run()
    file = staged(pipeline, LARGE + b"2")
    assert file.staged_key is not None
    pipeline.store.remove([file.staged_key])
    pipeline.upsert(document("a", "one", file=file))
    pipeline.run()
    assert [row.stage for row in pipeline.sql(DEAD)] == ["minio"]
    assert raw_files(pipeline) == {"text/a.pdf": LARGE}


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["inline", "staged"])
def test_file_of_another_type_moves_and_its_old_key_is_removed(pipeline: Pipeline, content: bytes) -> None:
    def write(name: str, source_type: str) -> None:
        file = DocumentFile.from_bytes(content, name, pipeline.store)
        pipeline.upsert(document("a", "one", file=file, source_type=source_type))
        pipeline.run()
        pipeline.assert_in_step()

    write("original.txt", "text")
    assert raw_files(pipeline) == {"text/a.txt": content}
    write("original.md", "text")
    assert raw_files(pipeline) == {"text/a.md": content}
    write("original.md", "webpage")
    assert raw_files(pipeline) == {"webpage/a.md": content}
    assert {row["oss_id"].split("/")[1] for row in pipeline.milvus_rows().values()} == {"webpage"}
    write("original.txt", "text")
    assert raw_files(pipeline) == {"text/a.txt": content}
