"""Invariants 11 and 12: a flood of dead letters stops the relay, and every batch is bounded in rows and in bytes."""

import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest

from consumers.sink import Change
from relays.direct import DirectRelay, direct_relay
from schema.events.events import UPSERTED, ChunkRow, DocumentDeleted, DocumentUpserted, Envelope
from schema.failures import DeadLetter, TooManyDeadLetters
from tests.contracts.milvus_collection import ids_of, record_requests
from tests.support.pipeline import Pipeline, document, vector

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


def append(pipeline: Pipeline, payloads: Sequence[bytes]) -> None:
    """Add one outbox row per payload, of documents `doc-0`, `doc-1`, …"""
    rows = [
        (f"event-{number}", f"doc-{number}", 1, UPSERTED, "application/json", payload)
        for number, payload in enumerate(payloads)
    ]
    with pipeline.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )


class Recorder:
    """An applier that accepts every event and records the batches."""

    name = "recorder"

    def __init__(self) -> None:
        self.batches: list[list[Envelope]] = []

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        self.batches.append(list(envelopes))
        return []


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([1] * 1_203, [500, 500, 203]),
        ([512 * 1024] * 50, [32, 18]),  # 16 MiB hold exactly 32 of the largest events
        ([512 * 1024] * 31 + [512 * 1024 + 1, 1], [31, 2]),
        ([1, 17 * MIB, 1], [1, 1, 1]),  # a larger event is a batch of its own
    ],
)
def test_invariant_12_relay_batches_are_bounded_in_rows_and_bytes(
    pipeline: Pipeline, sizes: list[int], batches: list[int]
) -> None:
    append(pipeline, [b"x" * size for size in sizes])
    recorder = Recorder()
    settled: list[int] = []
    relay = direct_relay(pipeline.engine, [recorder], report=lambda rows, _dead: settled.append(len(rows)))
    relay.run(threading.Event(), until_idle=True)
    relay.close()
    assert [len(batch) for batch in recorder.batches] == settled == batches
    arrived = [envelope.doc_id for batch in recorder.batches for envelope in batch]
    assert arrived == [f"doc-{number}" for number in range(len(sizes))]
    assert pipeline.pending() == []


def upsert_change(chunks: list[ChunkRow]) -> Change:
    event = DocumentUpserted(
        doc_id="a",
        version=1,
        history_id="h",
        embedding_model="test-model",
        dimension=8,
        title="A",
        source_type="text",
        chunk_count=len(chunks),
        chunks=chunks,
    )
    return Change("a", 1, (event,))


def chunk_row(number: int, content: str) -> ChunkRow:
    return ChunkRow(chunk_id=f"chunk-{number}", content_hash="0" * 64, content=content, vector=VECTOR)


VECTOR = b"\0\0\x80?" * 8  # eight times 1.0


def test_invariant_12_milvus_requests_are_bounded_in_rows(pipeline: Pipeline) -> None:
    with record_requests() as seen, patch.object(pipeline.milvus, "delete", wraps=pipeline.milvus.delete) as delete:
        pipeline.milvus_sink.apply([upsert_change([chunk_row(number, "x") for number in range(2_500)])])
        assert [rows for rows, _ in seen] == [1_000, 1_000, 500]
        assert len(pipeline.milvus_rows()) == 2_500
        gone = DocumentDeleted(
            doc_id="a", version=2, history_id="h", tombstones=[f"chunk-{number}" for number in range(2_500)]
        )
        pipeline.milvus_sink.apply([Change("a", 2, (gone,))])
    filters = [call.kwargs["filter"] for call in delete.call_args_list]
    assert [len(ids_of(expression)) for expression in filters] == [1_000, 1_000, 500]
    assert pipeline.milvus_rows() == {}


@pytest.mark.parametrize("letter", ["x", "😀"], ids=["ascii", "four-bytes"])
def test_invariant_12_milvus_requests_are_bounded_in_bytes(pipeline: Pipeline, letter: str) -> None:
    content = letter * (65_532 // len(letter.encode()))  # the longest content that Milvus takes
    with record_requests() as seen:
        pipeline.milvus_sink.apply([upsert_change([chunk_row(number, content) for number in range(300)])])
    assert sum(rows for rows, _ in seen) == 300
    assert max(size for _, size in seen) <= 16 * MIB
    assert len(seen) >= 2


def test_invariant_12_events_of_a_large_document_are_bounded(pipeline: Pipeline) -> None:
    """20 MiB of text in events of at most 512 KiB, relayed in batches of at most 16 MiB."""
    contents = [f"{number} {'x' * 65_000}" for number in range(320)]
    pipeline.upsert(document("a", *contents))
    sizes = [len(envelope.payload) for envelope in pipeline.pending()]
    assert len(sizes) == 40  # eight chunks of 65 kB each
    assert max(sizes) <= 512 * 1024
    claimed: list[int] = []
    claim = DirectRelay.claim

    def watched(relay: DirectRelay) -> Any:
        batch = claim(relay)
        claimed.append(sum(len(row.envelope.payload) for row in batch))
        return batch

    with patch.object(DirectRelay, "claim", watched), record_requests() as seen:
        pipeline.run()
    assert len(claimed) == 3  # two batches, and one claim that finds nothing
    assert max(claimed) <= 16 * MIB
    assert max(size for _, size in seen) <= 16 * MIB
    pipeline.assert_in_step()


def test_invariant_11_flood_of_dead_letters_stops_the_relay(pipeline: Pipeline) -> None:
    pipeline.upsert(*(document(f"good-{number}", "one") for number in range(10)))
    append(pipeline, [b"{"] * 700)
    relay = direct_relay(pipeline.engine, pipeline.appliers())
    with pytest.raises(TooManyDeadLetters, match=r"^100 of the last 1000 events became dead letters; stopped$"):
        relay.run(threading.Event(), until_idle=True)
    relay.close()
    assert pipeline.sql("SELECT count(DISTINCT event_id), count(*) FROM outbox_dead_letters") == [(100, 200)]
    assert [envelope.doc_id for envelope in pipeline.pending()] == [f"doc-{number}" for number in range(100, 700)]
    assert len(pipeline.milvus_rows()) == 10


def test_invariant_11_hundred_dead_letters_do_not_stop_the_relay(pipeline: Pipeline) -> None:
    append(pipeline, [b"{"] * 100)
    pipeline.upsert(document("good", "one"))
    pipeline.run()
    assert pipeline.pending() == []
    assert pipeline.sql("SELECT count(DISTINCT event_id) FROM outbox_dead_letters") == [(100,)]
    assert [row["doc_id"] for row in pipeline.milvus_rows().values()] == ["good"]
    assert vector("one") == pytest.approx(next(iter(pipeline.milvus_rows().values()))["vector"])
