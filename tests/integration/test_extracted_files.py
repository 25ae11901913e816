"""Tables and images are files of a document: they come, change and go with its versions, in every store's view."""

from collections.abc import Sequence

import pytest

from consumers.refill import mark_all_absent
from operations.reconcile.repair import repair
from operations.reconcile.repair_plan import plan_repair
from producer import Document, DocumentFile, InvalidDocument
from schema.limits import EXTRACTED_FILES, INLINE_FILE_BYTES
from schema.object_store import layout
from schema.sinks import MINIO
from tests.contracts.object_store import put
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, reconciled, refill_all
from tests.support.refill import refill_of

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

LARGE = b"\x89PNG" * INLINE_FILE_BYTES
TABLE, IMAGE = "processed-data/tables/d/table_%d.json", "processed-data/images/d/img_%d.png"


def files(pipeline: Pipeline, name: str, *contents: bytes) -> list[DocumentFile]:
    return [DocumentFile.from_bytes(content, name, pipeline.store) for content in contents]


def write(
    pipeline: Pipeline, tables: Sequence[bytes] | None, images: Sequence[bytes] | None, **fields: object
) -> Document:
    written = document(
        "d",
        "one",
        tables=None if tables is None else files(pipeline, "table.json", *tables),
        images=None if images is None else files(pipeline, "image.png", *images),
        **fields,
    )
    pipeline.upsert(written)
    return written


def objects(pipeline: Pipeline) -> dict[str, bytes]:
    """The extracted files in the object store."""
    return {key: content for key, content in pipeline.objects().items() if "/tables/" in key or "/images/" in key}


def test_tables_and_images_follow_their_document(pipeline: Pipeline) -> None:
    write(pipeline, [b"[1]", b"[2]"], [b"small", LARGE], file=b"original")
    pipeline.run()
    first = {TABLE % 1: b"[1]", TABLE % 2: b"[2]", IMAGE % 1: b"small", IMAGE % 2: LARGE}
    assert objects(pipeline) == first
    kinds = pipeline.sql("SELECT kind, count(*) FROM document_files GROUP BY kind ORDER BY 1")
    assert sorted(map(tuple, kinds)) == [("image", 2), ("raw", 1), ("table", 2)]
    pipeline.assert_in_step()

    write(pipeline, None, None, title="Other")  # what is not given stays
    pipeline.run()
    assert objects(pipeline) == first

    write(pipeline, [b"[2]"], None)
    pipeline.run()
    assert objects(pipeline) == {TABLE % 1: b"[2]", IMAGE % 1: b"small", IMAGE % 2: LARGE}
    pipeline.assert_in_step()

    write(pipeline, [], [])
    pipeline.run()
    assert objects(pipeline) == {}
    pipeline.assert_in_step()

    write(pipeline, [b"[3]"], [LARGE])
    pipeline.run()
    pipeline.delete("d")
    pipeline.run()
    assert objects(pipeline) == {}
    pipeline.assert_in_step()


def test_same_files_are_no_change(pipeline: Pipeline) -> None:
    write(pipeline, [b"[1]"], [b"one"])
    pipeline.run()
    write(pipeline, [b"[1]"], [b"one"])
    assert pipeline.pending() == []
    write(pipeline, [b"[1]"], [b"two"])
    assert len(pipeline.pending()) == 1


def test_skipped_versions_leave_the_newest_files(pipeline: Pipeline) -> None:
    """The second version is written before a sink has the first: its event needs no other."""
    write(pipeline, [b"[1]", b"[2]"], [b"one"])
    write(pipeline, [b"[3]"], [b"one", b"two"])
    pipeline.run()
    assert objects(pipeline) == {TABLE % 1: b"[3]", IMAGE % 1: b"one", IMAGE % 2: b"two"}
    pipeline.assert_in_step()


def test_files_may_come_before_the_chunks(pipeline: Pipeline) -> None:
    common = {"doc_id": "d", "title": "T", "source_type": "pdf"}
    original = DocumentFile.from_bytes(b"original", "a.pdf")
    pipeline.upsert(Document(**common, chunks=None, file=original))  # type: ignore[arg-type]
    pipeline.run()
    tables = files(pipeline, "table.json", b"[1]")
    pipeline.upsert(Document(**common, chunks=None, tables=tables))  # type: ignore[arg-type]
    pipeline.run()
    assert objects(pipeline) == {TABLE % 1: b"[1]"}
    pipeline.upsert(Document(**common, chunks=None, tables=[]))  # type: ignore[arg-type]
    pipeline.run()
    assert objects(pipeline) == {}
    assert pipeline.sql("SELECT status FROM documents") == [("processing",)]


def test_refill_brings_the_files_and_removes_those_of_lost_versions(pipeline: Pipeline) -> None:
    write(pipeline, [b"[1]"], [LARGE])
    pipeline.run()
    kept = objects(pipeline)
    put(pipeline.store, TABLE % 7, b"lost")
    put(pipeline.store, IMAGE % 7, b"lost")
    mark_all_absent(pipeline.engine, MINIO, "lost")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 1
    assert objects(pipeline) == kept
    pipeline.assert_in_step()


def test_reconcile_names_and_repairs_damaged_files(pipeline: Pipeline) -> None:
    write(pipeline, [b"[1]", b"[2]"], [b"one"])
    pipeline.run()
    assert found(reconciled(pipeline)) == set()
    put(pipeline.store, TABLE % 3, b"orphan")
    reconcile(pipeline, "orphaned")
    assert TABLE % 3 not in objects(pipeline)
    put(pipeline.store, IMAGE % 1, b"damaged")
    pipeline.store.remove([TABLE % 2])
    reconcile(pipeline, "stale", "missing")
    [state] = pipeline.sql("SELECT state, last_error FROM sink_states WHERE sink = 'minio'")
    assert state[0] == "absent"  # the store alone had the bytes: the next write brings them
    assert "the object store lacks 2 files" in state[1]
    write(pipeline, [b"[1]", b"[2]"], [b"one"])
    pipeline.run()
    refill_all(pipeline)
    assert objects(pipeline) == {TABLE % 1: b"[1]", TABLE % 2: b"[2]", IMAGE % 1: b"one"}
    assert found(reconciled(pipeline)) == set()


def reconcile(pipeline: Pipeline, *kinds: str) -> None:
    """Find exactly these kinds of differences in the object store, and repair them."""
    report = reconciled(pipeline)
    assert found(report) == {(MINIO, kind, "d") for kind in kinds}
    repair(pipeline.engine, pipeline.store, plan_repair(pipeline.engine, report.differences), "tester")
    refill_all(pipeline)


def test_lists_of_files_are_checked(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidDocument) as caught:
        pipeline.upsert(document("d", "one", tables=files(pipeline, "a.txt", b"x"), images=["x"]))
    assert [problem.field for problem in caught.value.problems] == ["tables[0]", "images[0]"]
    assert str(caught.value.problems[0]) == "tables[0] must have the extension json, has txt"
    too_many = [DocumentFile.from_bytes(b"x", "a.png")] * (EXTRACTED_FILES + 1)
    with pytest.raises(InvalidDocument, match="images must be at most 1000 files, there are 1001"):
        pipeline.upsert(document("d", "one", images=too_many))
    with pytest.raises(InvalidDocument, match="tables must be a list of DocumentFile, is str"):
        pipeline.upsert(document("d", "one", tables="x"))


def test_keys_tell_their_kind_and_document() -> None:
    for key, kind in ((layout.table_key("d", 1), "table"), (layout.image_key("d", 2), "image")):
        assert layout.file_kind(key) == kind
        assert (layout.doc_id_of(key), layout.is_key_of("d", key), layout.is_key_of("e", key)) == ("d", True, False)
    assert layout.file_kind(layout.extracted_text_key("d")) == "text"
    assert layout.file_kind("raw-files/pdf/2026/01/02/tables.pdf") == "raw"
