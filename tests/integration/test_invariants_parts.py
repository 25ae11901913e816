"""Invariants 7, 8 and 10 for versions in parts: applied in order, complete with all parts, nothing deleted before."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from unittest.mock import patch

import msgspec
import pytest

from consumers import marks
from consumers.marking import Marking
from schema import limits
from schema.events.events import ChunkRow, DocumentUpserted, Envelope, decode
from schema.object_store import layout
from schema.sinks import MILVUS, MINIO
from tests.support.pipeline import Pipeline, document
from tests.support.refill import refill_of, sink_of

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

OLD = [f"old {number}" for number in range(6)]
NEW = [f"new {number}" for number in range(6)]


@pytest.fixture
def parts(pipeline: Pipeline) -> list[Envelope]:
    """The parts of version 2, which replaces all chunks of version 1 and moves its file."""
    pipeline.upsert(document("a", *OLD, file=b"x", source_type="text"))
    pipeline.run()
    with patch.object(limits, "EVENT_BYTES", 750):
        pipeline.upsert(document("a", *NEW, file=b"x", source_type="pdf"))
    found = pipeline.pending()
    assert len(found) >= 5
    return found


def deliver(pipeline: Pipeline, events: Sequence[Envelope], sinks: Sequence[str] = (MILVUS, MINIO)) -> None:
    for one in pipeline.appliers():
        if one.name in sinks:
            assert one.apply(events) == []


def progress(pipeline: Pipeline) -> list[tuple[int, int, int]]:
    columns = "applied_version, parts_version, parts_applied"
    return [tuple(row) for row in pipeline.sql(f"SELECT {columns} FROM sink_states ORDER BY sink")]


def contents(pipeline: Pipeline) -> set[str]:
    return {row["content"] for row in pipeline.milvus_rows().values()}


def old_files(pipeline: Pipeline) -> list[str]:
    return [key for key in pipeline.objects() if key.startswith("raw-files/text/")]


def test_invariant_8_missing_first_part_never_completes_the_version(pipeline: Pipeline, parts: list[Envelope]) -> None:
    consumers = pipeline.appliers()
    for _ in range(2):
        for one in consumers:
            assert one.apply(parts[1:]) == []
            for part in parts[1:]:
                assert one.apply([part]) == []
    assert progress(pipeline) == [(1, 1, 1)] * 2
    assert contents(pipeline) == set(OLD), "nothing is written or deleted"
    assert old_files(pipeline) != []
    assert pipeline.sql("SELECT status FROM documents") == [("pending",)]
    assert [one.counts["part_missing"] for one in consumers] == [2 * len(parts)] * 2
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_8_unpublished_part_leaves_the_document_pending(pipeline: Pipeline, parts: list[Envelope]) -> None:
    pipeline.execute("DELETE FROM outbox WHERE event_id = :id", id=parts[2].event_id)
    pipeline.run()
    assert progress(pipeline) == [(1, 2, 2)] * 2
    assert contents(pipeline) >= set(OLD)
    assert pipeline.sql("SELECT status FROM documents") == [("pending",)]
    pipeline.upsert(document("a", *NEW, "one more", file=b"x", source_type="pdf"))
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_10_nothing_is_deleted_before_all_parts_are_applied(
    pipeline: Pipeline, parts: list[Envelope]
) -> None:
    with_tombstones = [number for number, part in enumerate(parts) if cast(DocumentUpserted, decode(part)).tombstones]
    assert len(with_tombstones) > 1
    for number, part in enumerate(parts[:-1], start=1):
        deliver(pipeline, [part])
        assert contents(pipeline) >= set(OLD)
        assert old_files(pipeline) != []
        assert progress(pipeline) == [(1, 2, number)] * 2
        assert pipeline.sql("SELECT status FROM documents") == [("pending",)]
    deliver(pipeline, parts[-1:])
    assert contents(pipeline) == set(NEW)
    assert old_files(pipeline) == []
    pipeline.run()
    pipeline.assert_in_step()


def test_invariant_10_deletion_in_parts_starts_with_its_last_part(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", *OLD, file=b"x"))
    pipeline.run()
    rows, objects = pipeline.milvus_rows(), pipeline.objects()
    with patch.object(limits, "EVENT_BYTES", 450):
        pipeline.delete("a")
    deletion = pipeline.pending()
    assert len(deletion) > 1
    for part in deletion[:-1]:
        deliver(pipeline, [part])
        assert (pipeline.milvus_rows(), pipeline.objects()) == (rows, objects)
    deliver(pipeline, deletion[-1:])
    assert (pipeline.milvus_rows(), pipeline.objects()) == ({}, {})
    pipeline.run()
    pipeline.assert_in_step()


class Died(BaseException):
    """The process dies."""


@contextmanager
def dying(moment: Callable[[], bool]) -> Iterator[None]:
    """The process dies between apply and mark, whenever `moment` says so."""
    mark = Marking._mark

    def mark_or_die(*arguments: object) -> None:
        if moment():
            raise Died
        mark(*arguments)  # type: ignore[arg-type]

    with patch.object(Marking, "_mark", mark_or_die):
        yield


@pytest.mark.parametrize("seed", range(8))
def test_invariant_8_parts_in_any_batches_with_crashes_complete_the_version(
    pipeline: Pipeline, parts: list[Envelope], seed: int
) -> None:
    """Each sink reads the topic in order, and goes back to an earlier offset after each crash."""
    chance = random.Random(seed)
    for sink in (MILVUS, MINIO):
        offset = 0
        while offset < len(parts):
            batch = parts[offset : offset + chance.randint(1, 3)]
            try:
                with dying(lambda: chance.random() < 0.4):
                    deliver(pipeline, batch, [sink])
            except Died:
                offset = max(0, offset - chance.randint(0, 2))
                continue
            offset += len(batch)
            assert contents(pipeline) >= set(OLD) or contents(pipeline) >= set(NEW)
    assert progress(pipeline) == [(2, 2, len(parts))] * 2
    assert pipeline.sql("SELECT status FROM documents") == [("completed",)]
    pipeline.run()
    pipeline.assert_in_step()


def test_whole_older_version_is_applied_when_the_newer_one_cannot_be(pipeline: Pipeline, parts: list[Envelope]) -> None:
    pipeline.upsert(document("b", "one"))
    [older] = pipeline.pending("b")
    with patch.object(limits, "EVENT_BYTES", 750):
        pipeline.upsert(document("b", *NEW))
    newer = pipeline.pending("b")[1:]
    deliver(pipeline, [older, *newer[1:]])
    states = "SELECT applied_version, parts_version FROM sink_states WHERE doc_id = 'b'"
    assert [tuple(row) for row in pipeline.sql(states)] == [(1, 1)] * 2
    pipeline.run()
    pipeline.assert_in_step()


def test_parts_of_an_absent_document_are_applied_and_move_no_mark(pipeline: Pipeline, parts: list[Envelope]) -> None:
    """They may carry vectors that the archive lacks; a replace ends the state."""
    with pipeline.engine.begin() as connection:
        for sink in (MILVUS, MINIO):
            marks.mark_absent(connection, sink, {"a": "lost"})
    for part in parts:
        deliver(pipeline, [part])
    assert progress(pipeline) == [(0, 2, len(parts))] * 2
    assert {row.state for row in pipeline.sql("SELECT state FROM sink_states")} == {"absent"}
    assert pipeline.sql("SELECT 1 FROM chunks WHERE milvus_synced") == []
    assert contents(pipeline) == set(NEW)
    objects = pipeline.objects()
    keys = [layout.embeddings_key("a", 2, number) for number in range(1, len(parts) + 1)]
    archives = [msgspec.msgpack.decode(objects[key], type=list[ChunkRow]) for key in keys if key in objects]
    archived = [chunk.content for chunks in archives for chunk in chunks]
    assert sorted(archived) == sorted(NEW)
    assert pipeline.sql("SELECT status FROM documents") == [("pending",)]


def test_parts_that_come_after_the_loss_of_a_state_are_applied(pipeline: Pipeline, parts: list[Envelope]) -> None:
    """No other event has their vectors, and the parts before them do not come again."""
    deliver(pipeline, parts[:2])
    with pipeline.engine.begin() as connection:
        marks.mark_absent_everywhere(connection, {"a": "lost"})
    deliver(pipeline, parts[2:])
    for name in (MINIO, MILVUS):
        assert refill_of(pipeline, sink_of(pipeline, name)).run_round() == 1
    pipeline.run()
    pipeline.assert_in_step()
