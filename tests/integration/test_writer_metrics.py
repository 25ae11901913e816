"""The writer's metrics count what is committed, rolled back and refused, in the caller's registry."""

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.orm import Session

from producer import InvalidDocument, Writer, WriterMetrics
from tests.support.pipeline import MODEL, Pipeline, document

pytestmark = pytest.mark.integration


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def writer(registry: CollectorRegistry) -> Writer:
    return Writer(MODEL, metrics=WriterMetrics(registry))


def writes(registry: CollectorRegistry, operation: str, outcome: str) -> float:
    return registry.get_sample_value("rag_outbox_writes_total", {"operation": operation, "outcome": outcome}) or 0


def test_write_counts_once_its_transaction_is_committed(
    writer: Writer, registry: CollectorRegistry, pipeline: Pipeline
) -> None:
    with pipeline.engine.begin() as connection:
        writer.upsert_many(connection, [document("a", "one"), document("b", "two")])
        assert writes(registry, "INSERT", "committed") == 0
    with pipeline.engine.begin() as connection:
        writer.upsert(connection, document("a", "changed"))
        writer.delete(connection, "b")
    assert [writes(registry, one, "committed") for one in ("INSERT", "UPDATE", "DELETE")] == [2, 1, 1]
    stored = sum(len(row.payload) for row in pipeline.pending())
    assert registry.get_sample_value("rag_outbox_written_bytes_total") == stored
    assert registry.get_sample_value("rag_outbox_write_seconds_count") == 3


def test_write_that_is_rolled_back_counts_as_such(
    writer: Writer, registry: CollectorRegistry, pipeline: Pipeline
) -> None:
    with Session(pipeline.engine) as session:
        writer.upsert(session.connection(), document("a", "one"))
    assert writes(registry, "INSERT", "rolled_back") == 1
    assert writes(registry, "INSERT", "committed") == 0
    with pipeline.engine.begin():
        pass
    assert writes(registry, "INSERT", "committed") == 0
    assert registry.get_sample_value("rag_outbox_written_bytes_total") == 0


def test_refused_call_is_counted_by_its_error(writer: Writer, registry: CollectorRegistry, pipeline: Pipeline) -> None:
    with pipeline.engine.begin() as connection, pytest.raises(InvalidDocument):
        writer.upsert(connection, document("", "one"))
    assert registry.get_sample_value("rag_outbox_refused_writes_total", {"reason": "InvalidDocument"}) == 1
