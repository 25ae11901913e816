"""Suspects: nothing of a lost version stays in a store, and an event of one that comes again does no harm."""

import io
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from consumers import marks
from consumers.lost_history import LostEvent
from consumers.marks import Known
from producer import desired
from schema.events.events import DocumentUpserted, decode
from schema.failures import Retryable
from schema.object_store import layout
from tests.integration.test_invariants_histories import absent, refill_all, start_history, states, suspects
from tests.support.foreign_events import lose
from tests.support.pipeline import Pipeline, document

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]


class LongAgo:
    """The clock of a writer in 2020."""

    @staticmethod
    def now(tz: tzinfo) -> datetime:
        return datetime(2020, 1, 1, tzinfo=tz)


def test_suspect_keeps_its_highest_lost_version(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    milvus, minio = pipeline.appliers()
    for one, versions in ((milvus, [5, 7, 6]), (minio, [4]), (minio, [9])):
        assert one.apply([lose(event, version=version) for version in versions]) == []
        assert suspects(pipeline) == [("a", 9 if versions == [9] else 7)]


def test_lost_document_leaves_nothing_in_any_store(pipeline: Pipeline) -> None:
    """The sinks applied it before the failover; nobody writes it again."""
    pipeline.upsert(document("a", "one"), document("missing", "two", file=b"lost"))
    events = pipeline.pending("missing")
    pipeline.run()
    for table in ("chunks", "document_files", "sink_states", "documents"):
        pipeline.execute(f"DELETE FROM {table} WHERE doc_id = 'missing'")
    start_history(pipeline)
    for one in pipeline.appliers():
        assert one.apply(events) == []
    assert suspects(pipeline) == [("missing", 1)]
    refill_all(pipeline)
    assert pipeline.sql("SELECT version, status, deleted_at IS NULL FROM documents WHERE doc_id = 'missing'") == [
        (2, "completed", 0)
    ]
    assert {row["doc_id"] for row in pipeline.milvus_rows().values()} == {"a"}
    assert [key for key in pipeline.objects() if "missing" in key] == []
    pipeline.assert_in_step()


@pytest.mark.parametrize("batches", [["2", "1"], ["12"], ["21"], ["1", "2"]], ids=" then ".join)
def test_file_that_only_a_lower_lost_version_carried_is_removed(
    pipeline: Pipeline, batches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 was written on another day, and applied; version 2 keeps the file, and was not applied."""
    monkeypatch.setattr(desired, "datetime", LongAgo)
    pipeline.upsert(document("a", "one"), document("missing", "two", file=b"lost"))
    [first] = pipeline.pending("missing")
    pipeline.run()
    pipeline.upsert(document("missing", "two", "three", file=b"lost"))
    [second] = pipeline.pending("missing")
    assert [LostEvent.of(decode(event)).files != () for event in (first, second)] == [True, False]
    pipeline.execute("DELETE FROM outbox")
    for table in ("chunks", "document_files", "sink_states", "documents"):
        pipeline.execute(f"DELETE FROM {table} WHERE doc_id = 'missing'")
    start_history(pipeline)
    events = {"1": first, "2": second}
    for batch in batches:
        for one in pipeline.appliers():
            assert one.apply([events[version] for version in batch]) == []
        refill_all(pipeline)
    assert suspects(pipeline) == [("missing", 2)]
    assert [key for key in pipeline.objects() if "missing" in key] == []
    assert pipeline.sql("SELECT status FROM documents WHERE doc_id = 'missing'") == [("completed",)]
    pipeline.assert_in_step()


def test_file_of_a_lost_event_makes_only_file_sinks_absent_and_once(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"kept"))
    [event] = pipeline.pending()
    pipeline.run()
    [record] = msgspec.msgpack.decode(event.payload, type=DocumentUpserted).files
    other = msgspec.structs.replace(record, object_key=layout.raw_file_key("a", "pdf", datetime(2020, 1, 1), "pdf"))
    milvus, minio = pipeline.appliers()
    assert milvus.apply([lose(event, version=3, files=[record])]) == []
    refill_all(pipeline)
    healed = states(pipeline)
    assert milvus.apply([lose(event, version=2, files=[record])]) == []
    assert states(pipeline) == healed, "the document has an object of this key"

    assert milvus.apply([lose(event, version=2, files=[other])]) == []
    reason = "milvus received a file of version 2 of a lost history"
    assert states(pipeline) == healed | {"minio": (0, "absent", reason)}
    [marked] = pipeline.sql("SELECT marks FROM sink_states WHERE sink = 'minio'")
    assert minio.apply([lose(event, version=2, files=[other])]) == []
    assert pipeline.sql("SELECT marks FROM sink_states WHERE sink = 'minio'") == [marked]
    refill_all(pipeline)
    assert states(pipeline) == healed
    pipeline.assert_in_step()


def test_file_of_a_lost_version_is_removed(pipeline: Pipeline) -> None:
    """Its date is another, so that no key of the document shows where it is."""
    pipeline.upsert(document("a", "one", file=b"kept"))
    [event] = pipeline.pending()
    pipeline.run()
    [record] = msgspec.msgpack.decode(event.payload, type=DocumentUpserted).files
    key = layout.raw_file_key("a", "pdf", datetime(2020, 1, 1), "pdf")
    pipeline.store.put(key, io.BytesIO(b"lost"), size_bytes=4, content_type="x", sha256=None)
    milvus, _ = pipeline.appliers()
    files = [msgspec.structs.replace(record, object_key=name) for name in (key, "models/theirs")]
    assert milvus.apply([lose(event, version=2, files=files)]) == []
    removed = pipeline.sql("SELECT object_key FROM document_files WHERE removed_in_version IS NOT NULL")
    assert [tuple(row) for row in removed] == [(key,)], "no key that is not the document's"
    refill_all(pipeline)
    assert key not in pipeline.objects()
    pipeline.assert_in_step()


def test_lost_event_that_comes_again_is_only_counted(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    milvus, minio = pipeline.appliers()
    assert milvus.apply([lose(event, version=2)]) == []
    refill_all(pipeline)
    healed = states(pipeline)
    assert minio.apply([lose(event, version=2)]) == []
    assert milvus.apply([lose(event, version=2)]) == []
    assert states(pipeline) == healed
    assert (milvus.counts["lost_history"], minio.counts["lost_history"]) == (2, 1)
    assert minio.apply([lose(event, version=3)]) == []
    assert states(pipeline) == absent("minio", 3)


def test_lost_event_that_comes_again_hides_no_new_version(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    [event] = pipeline.pending()
    pipeline.run()
    milvus, _ = pipeline.appliers()
    assert milvus.apply([lose(event, version=2)]) == []
    refill_all(pipeline)
    pipeline.upsert(document("a", "one", "two"))
    assert milvus.apply([lose(event, version=2), *pipeline.pending()]) == []
    assert states(pipeline)["milvus"][:2] == (3, "applied")
    pipeline.run()
    pipeline.assert_in_step()


def test_event_judged_by_a_server_that_was_replaced_is_tried_again(pipeline: Pipeline) -> None:
    """The old primary does not know the history of the event; the mark reaches the new one."""
    pipeline.upsert(document("a", "one"))
    events = pipeline.pending()
    milvus, _ = pipeline.appliers()
    real = marks.load_known

    def load_from_the_old_primary(*arguments: Any) -> dict[str, Known]:
        read.append(None)
        known = real(*arguments)
        return {key: replace(one, history_id="old") for key, one in known.items()} if len(read) == 1 else known

    read: list[None] = []
    with patch.object(marks, "load_known", load_from_the_old_primary), pytest.raises(Retryable):
        milvus.apply(events)
    assert suspects(pipeline) == []
    assert milvus.apply(events) == []
    assert states(pipeline)["milvus"][:2] == (1, "applied")
