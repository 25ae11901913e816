"""Invariant 11 on real stores: every failure is retried, becomes a dead letter with its reason, or is raised."""

import re
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pymilvus.exceptions import MilvusException
from sqlalchemy.exc import OperationalError

from consumers.applier import Applier
from consumers.failing_documents import FAILING_SECONDS
from consumers.isolation import REFUSED_ATTEMPTS, REFUSED_SECONDS, WHOLE_ATTEMPTS
from consumers.metrics import ConsumerMetrics, MeasuredApplier
from consumers.milvus import upsert as milvus_upsert
from operations.settings import Settings
from operations.status import status
from operations.wiring import System
from relays import direct
from relays.direct import direct_relay
from schema import limits
from schema.events.events import DocumentUpserted, decode, encode
from schema.failures import Retryable
from schema.metrics import ProcessMetrics
from schema.retry import Backoff
from schema.sinks import MILVUS, MINIO
from tests.support.consumer_loop import Clock
from tests.support.pipeline import MARKS, Pipeline, document

pytestmark = pytest.mark.integration

DEAD = "SELECT stage, aggregate_id, aggregate_version, error FROM outbox_dead_letters ORDER BY aggregate_id, stage"
INSERT = (
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
    " VALUES (:event_id, :doc_id, :version, 'rag.document.upserted.v1', 'application/json', :payload)"
)


def tamper(pipeline: Pipeline, doc_id: str, change: Callable[[DocumentUpserted], DocumentUpserted]) -> None:
    """Change the document's event in the outbox to what a faulty writer in another language might write."""
    envelope = next(event for event in pipeline.pending() if event.doc_id == doc_id)
    event = decode(envelope)
    assert isinstance(event, DocumentUpserted)
    payload = encode(change(event), envelope.content_type)
    pipeline.execute("UPDATE outbox SET payload = :payload WHERE event_id = :id", payload=payload, id=envelope.event_id)


def with_first_chunk(**fields: Any) -> Callable[[DocumentUpserted], DocumentUpserted]:
    def change(event: DocumentUpserted) -> DocumentUpserted:
        first = msgspec.structs.replace(event.chunks[0], **fields)
        return msgspec.structs.replace(event, chunks=[first, *event.chunks[1:]])

    return change


def with_file(**fields: Any) -> Callable[[DocumentUpserted], DocumentUpserted]:
    def change(event: DocumentUpserted) -> DocumentUpserted:
        return msgspec.structs.replace(event, files=[msgspec.structs.replace(event.files[0], **fields)])

    return change


def forget_dead_letters(pipeline: Pipeline) -> None:
    pipeline.execute("DELETE FROM outbox_dead_letters")


NAN = np.full(8, np.nan, "<f4").tobytes()
INFINITE = np.array([1, 1, 1, -np.inf, 1, 1, 1, 1], "<f4").tobytes()
CASES = {  # fault of the event → a function that adds it, the sink that refuses it, a part of the reason
    "wrong dimension": (with_first_chunk(vector=b"\0" * 28), MILVUS, "28 bytes, 8 float32 numbers need 32"),
    "NaN": (with_first_chunk(vector=NAN), MILVUS, "the vector is not finite"),
    "infinity": (with_first_chunk(vector=INFINITE), MILVUS, "the vector is not finite"),
    "long content": (with_first_chunk(content="x" * 65_536), MILVUS, ": content has 65536 bytes, Milvus takes 65535"),
    "long label": (with_first_chunk(modal_type="m" * 17), MILVUS, ": modal_type has 17 bytes, Milvus takes 16"),
    "long id": (with_first_chunk(chunk_id="c" * 65), MILVUS, ": chunk_id has 65 bytes, Milvus takes 64"),
    "traversal": (with_file(object_key="../../etc/passwd"), MINIO, "'../../etc/passwd' leaves the store"),
    "long key": (with_file(object_key="x" * 256), MINIO, "more than 255 bytes"),
    "no file": (with_file(content=None), MINIO, "has neither content nor a staged object"),
    "no staged file": (with_file(content=None, staged_key="temp/none"), MINIO, "staged object 'temp/none'"),
}


@pytest.mark.parametrize("fault", CASES)
def test_invariant_11_one_bad_document_among_many_becomes_a_dead_letter(pipeline: Pipeline, fault: str) -> None:
    change, stage, reason = CASES[fault]
    pipeline.upsert(*(document(f"doc-{number:02d}", "one", "two", file=b"x") for number in range(32)))
    tamper(pipeline, "doc-13", change)
    sink = pipeline.milvus_sink if stage == MILVUS else pipeline.minio_sink
    with patch.object(sink, "apply", wraps=sink.apply) as applies:
        pipeline.run()
    assert applies.call_count == 11  # the first call, then five halvings with two calls each

    letter = pipeline.sql(DEAD)[0]
    assert pipeline.sql(DEAD) == [letter]
    assert (letter.stage, letter.aggregate_id, letter.aggregate_version) == (stage, "doc-13", 1)
    assert reason in letter.error
    states = {row.sink: row for row in pipeline.sql("SELECT * FROM sink_states WHERE doc_id = 'doc-13'")}
    other = MINIO if stage == MILVUS else MILVUS
    assert (states[stage].state, states[stage].applied_version, states[stage].attempts) == ("failed", 0, 1)
    assert states[stage].last_error == letter.error
    assert (states[other].state, states[other].applied_version) == ("applied", 1)
    statuses = {row.doc_id: row.status for row in pipeline.sql("SELECT doc_id, status FROM documents")}
    assert statuses.pop("doc-13") == "failed"
    assert set(statuses.values()) == {"completed"}
    owners = [row["doc_id"] for row in pipeline.milvus_rows().values()]
    assert ("doc-13" in owners) == (stage == MINIO)
    assert len(owners) == (62 if stage == MILVUS else 64)
    assert pipeline.pending() == []

    pipeline.upsert(document("doc-13", "one", "two", file=b"x"))  # writing it again correctly heals it
    pipeline.run()
    forget_dead_letters(pipeline)
    pipeline.assert_in_step()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"{", "Input data was truncated"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"doc_id": "a"}', "missing required field"),
        (b"[" * 100_000, "JSON is malformed|recursion|Expected"),
        (b'{"doc_id": 1}', "Expected `str`"),
    ],
)
def test_invariant_11_unreadable_payload_becomes_a_dead_letter(pipeline: Pipeline, payload: bytes, reason: str) -> None:
    pipeline.upsert(document("a", "one"), document("b", "one"))
    pipeline.execute("DELETE FROM outbox WHERE aggregate_id = 'a'")
    pipeline.execute(INSERT, event_id="e", doc_id="a", version=1, payload=payload)
    pipeline.run()
    letters = pipeline.sql(DEAD)
    assert [(letter.stage, letter.aggregate_id) for letter in letters] == [(MILVUS, "a"), (MINIO, "a")]
    assert all(re.search(reason, letter.error) for letter in letters)
    assert {row.payload for row in pipeline.sql("SELECT payload FROM outbox_dead_letters")} == {payload}
    assert pipeline.sql("SELECT status FROM documents ORDER BY doc_id") == [("failed",), ("completed",)]


def test_invariant_11_unreadable_event_does_not_spoil_an_applied_document(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    pipeline.run()
    pipeline.execute(INSERT, event_id="garbage", doc_id="a", version=1, payload=b"{")
    pipeline.run()
    letters = [(row.aggregate_version, row.stage) for row in pipeline.sql(DEAD)]
    assert sorted(letters) == [(1, MILVUS), (1, MINIO)]
    forget_dead_letters(pipeline)
    pipeline.assert_in_step()


@pytest.mark.parametrize(("version", "doc_id"), [(2**63, "a"), (0, "a"), (1, "x" * 65), (1, "../x")])
def test_invariant_11_event_with_impossible_number_or_name_is_a_dead_letter(
    pipeline: Pipeline, version: int, doc_id: str
) -> None:
    pipeline.upsert(document("a", "one"))
    [sent] = pipeline.pending()
    event = msgspec.structs.replace(decode(sent), version=version, doc_id=doc_id)
    envelope = msgspec.structs.replace(sent, version=version, doc_id=doc_id, payload=encode(event, sent.content_type))
    for one in pipeline.appliers():
        assert [letter.envelope for letter in one.apply([envelope])] == [envelope]
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_11_version_is_refused_whole_when_its_first_part_is(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "old", "older"))
    pipeline.run()
    with patch.object(limits, "EVENT_BYTES", 750):
        pipeline.upsert(document("a", "one", "two", "three"))
    assert len(pipeline.pending()) == 3  # the last part has both tombstones
    tamper(pipeline, "a", with_first_chunk(vector=NAN))
    with patch.object(direct, "_BATCH_ROWS", 1):  # one part per batch
        pipeline.run()
    assert pipeline.sql("SELECT state, applied_version FROM sink_states WHERE sink = 'milvus'") == [("failed", 1)]
    assert pipeline.sql("SELECT status FROM documents") == [("failed",)]
    assert [(row.stage, row.error.split()[0]) for row in pipeline.sql(DEAD)] == [(MILVUS, "chunk")] * 3
    assert sorted(row["content"] for row in pipeline.milvus_rows().values()) == [
        "old",
        "older",
    ]  # searches still find it

    pipeline.upsert(document("a", "one", "two", "three"))
    pipeline.run()
    forget_dead_letters(pipeline)
    pipeline.assert_in_step()


def test_invariant_11_events_that_share_an_id_keep_the_last_dead_letter(pipeline: Pipeline) -> None:
    """A mistake of a foreign writer, or an event that was replayed and refused again."""
    pipeline.upsert(document("a", "one"))
    for payload in (b"first", b"second", b"third"):
        pipeline.execute(INSERT, event_id="same", doc_id="b", version=1, payload=payload)
        pipeline.execute("UPDATE outbox SET headers = '[1]' WHERE event_id = 'same'")  # invalid headers too
        if payload != b"first":
            pipeline.run()
    assert pipeline.sql("SELECT stage, payload FROM outbox_dead_letters ORDER BY stage") == [
        (MILVUS, b"third"),
        (MINIO, b"third"),
    ]
    forget_dead_letters(pipeline)
    pipeline.assert_in_step()


def test_invariant_11_events_wait_with_backoff_while_a_sink_is_down(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"), document("b", "two"))
    real, failures = milvus_upsert.upsert, iter(range(3))
    reported: list[tuple[str, float]] = []

    def upsert(*args: Any, **kwargs: Any) -> Any:
        if next(failures, None) is not None:
            raise MilvusException(code=8, message="rate limit exceeded")
        return real(*args, **kwargs)

    relay = direct_relay(
        pipeline.engine, pipeline.appliers(), backoff=Backoff(0.01, 0.05), failing=lambda *what: reported.append(what)
    )
    with patch.object(milvus_upsert, "upsert", upsert):
        relay.run(threading.Event(), until_idle=True)
    relay.close()
    assert len(reported) == 3
    assert all(reason.startswith("Milvus: rate limit exceeded") for reason, _ in reported)
    for (_, seconds), limit in zip(reported, (0.01, 0.02, 0.04), strict=True):
        assert 0 <= seconds <= limit  # full jitter
    pipeline.assert_in_step()


def test_invariant_11_one_forbidden_key_holds_up_no_other_document(pipeline: Pipeline) -> None:
    pipeline.upsert(*(document(f"d{number}", "one", file=b"x") for number in range(20)))
    real, clock = pipeline.store.put, Clock()

    def put(key: str, *args: Any, **kwargs: Any) -> None:
        if "/d7." in key:
            raise PermissionError(13, "Permission denied", key)
        real(key, *args, **kwargs)

    minio = Applier(pipeline.engine, pipeline.minio_sink, MARKS[MINIO], clock=clock)
    with patch.object(pipeline.store, "put", put):
        for attempt in range(WHOLE_ATTEMPTS + REFUSED_ATTEMPTS):
            clock.pass_time(REFUSED_SECONDS / REFUSED_ATTEMPTS)
            if attempt > WHOLE_ATTEMPTS:
                pipeline.upsert(document(f"new{attempt}", "one", file=b"x"))
            with pytest.raises(Retryable, match="Permission denied"):
                minio.apply(pipeline.pending())
            applied = pipeline.sql("SELECT count(*) FROM sink_states WHERE sink = 'minio' AND state = 'applied'")
            assert applied == [(0 if attempt < WHOLE_ATTEMPTS else 19 + attempt - WHOLE_ATTEMPTS,)]
        clock.pass_time(REFUSED_SECONDS / REFUSED_ATTEMPTS)
        pipeline.upsert(document("last", "one", file=b"x"))
        [letter] = minio.apply(pipeline.pending())
    assert letter.envelope.doc_id == "d7"
    assert letter.reason.startswith("failed 11 times while the sink took other documents: object store: ")
    state = "SELECT state, applied_version, last_error FROM sink_states WHERE sink = 'minio' AND doc_id = 'd7'"
    assert pipeline.sql(state) == [("failed", 0, letter.reason)]

    pipeline.upsert(document("d7", "one", file=b"y"))  # a newer version is tried again
    pipeline.run()
    forget_dead_letters(pipeline)
    pipeline.assert_in_step()


def test_invariant_11_document_that_fails_alone_is_named_and_never_refused(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else is written, so nothing shows whether the store takes other documents."""
    pipeline.upsert(document("a", "one", file=b"x"))
    system, clock = System(Settings(), pipeline.engine), Clock()
    registry = CollectorRegistry()
    process = ProcessMetrics(registry, "consumer")
    plain = Applier(pipeline.engine, pipeline.minio_sink, MARKS[MINIO], clock=clock)
    minio = MeasuredApplier(plain, ConsumerMetrics(registry), process.retries)

    def count() -> float | None:
        return registry.get_sample_value("rag_outbox_failing_documents", {"sink": "minio"})

    def fail_for(seconds: float) -> None:
        for _ in range(int(seconds / 10)):
            with pytest.raises(Retryable):
                minio.apply(pipeline.pending())
            clock.pass_time(10.0)

    with patch.object(pipeline.store, "put", side_effect=PermissionError(13, "Permission denied", "a key")):
        fail_for(FAILING_SECONDS)
        assert (count(), caplog.messages, status(system).failing) == (0, [], [])
        fail_for(20)
        assert count() == 1
        [line] = caplog.messages
        assert line.startswith("document_still_failing sink=minio doc_id=a seconds=300 reason=")
        [failing] = status(system).failing
        assert (failing["doc_id"], failing["sink"], failing["version"]) == ("a", "minio", 1)
        assert failing["reason"].startswith("failing for 300 s: ")
        assert "Permission denied" in failing["reason"]
        fail_for(2 * REFUSED_SECONDS)
        assert 6 <= len(caplog.messages) <= 8, "once per five minutes"
    assert pipeline.sql("SELECT state FROM sink_states WHERE sink = 'minio'") == [("pending",)]
    assert pipeline.sql(DEAD) == []

    assert minio.apply(pipeline.pending()) == []
    assert (count(), status(system).failing) == (0, [])
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_11_events_stay_in_the_outbox_when_patience_ends(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    relay = direct_relay(pipeline.engine, pipeline.appliers(), backoff=Backoff(0.01, 0.02))
    down = patch.object(pipeline.store, "put", side_effect=OSError(28, "No space left on device"))
    with down, pytest.raises(Retryable, match="No space left"):
        relay.run(threading.Event(), until_idle=True, patience_seconds=0.1)
    relay.close()
    stop, began = threading.Event(), time.monotonic()
    relay = direct_relay(pipeline.engine, pipeline.appliers(), failing=lambda *_: stop.set())
    with down:  # a stop during the wait ends the relay at once, without an error
        relay.run(stop, until_idle=True)
    assert time.monotonic() - began < 5
    relay.close()
    assert len(pipeline.pending()) == 1
    assert pipeline.sql("SELECT * FROM outbox_dead_letters") == []
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_11_one_sink_refuses_while_the_other_is_down(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", file=b"x"), document("b", "one", file=b"x"))
    tamper(pipeline, "a", with_first_chunk(vector=NAN))
    settled: list[int] = []
    relay = direct_relay(pipeline.engine, pipeline.appliers(), report=lambda rows, _dead: settled.append(len(rows)))
    with patch.object(pipeline.store, "put", side_effect=TimeoutError("slow")), pytest.raises(Retryable, match="slow"):
        relay.run(threading.Event(), until_idle=True, patience_seconds=0)
    assert len(pipeline.pending()) == 2
    relay.run(threading.Event(), until_idle=True)
    assert settled == [2]
    relay.close()
    assert [(row.stage, row.aggregate_id) for row in pipeline.sql(DEAD)] == [(MILVUS, "a")]
    attempts = "SELECT attempts FROM sink_states WHERE doc_id = 'a' AND sink = 'milvus'"
    assert pipeline.sql(attempts) == [(2,)]


def test_invariant_11_transient_database_errors_are_retryable_and_others_raised(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one"))
    milvus, _ = pipeline.appliers()
    for text, error in (("database is locked", Retryable), ("disk I/O error", OperationalError)):
        failure = OperationalError("SELECT", {}, sqlite3.OperationalError(text))
        with patch("consumers.marks.lock_documents", side_effect=failure), pytest.raises(error, match=text):
            milvus.apply(pipeline.pending())
    pipeline.run()
    pipeline.assert_in_step()
