"""One trace leads from the caller's transaction through the relay to each store."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer
from sqlalchemy import Engine, text

from operations.tracing import Tracing
from producer import Writer
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.pipeline import MODEL, Pipeline, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """The fixture `pipeline` on MySQL."""
    return mysql


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("test")
    provider.shutdown()


def spans(exporter: InMemorySpanExporter, doc_id: str) -> dict[str, ReadableSpan]:
    of_document = (one for one in exporter.get_finished_spans() if (one.attributes or {}).get("rag_outbox.doc_id"))
    return {one.name: one for one in of_document if (one.attributes or {})["rag_outbox.doc_id"] == doc_id}


def test_trace_of_a_write_reaches_both_stores(
    servers: Servers, pipeline: Pipeline, names: Names, tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    tracing, writer = Tracing(tracer), Writer(MODEL, tracing=True)
    with (
        kafka.relaying(pipeline.engine, servers, names, report=tracing.note_published),
        kafka.consuming(pipeline.engine, pipeline.milvus_sink, servers, names, wrapped=tracing.traced),
        kafka.consuming(pipeline.engine, pipeline.minio_sink, servers, names, wrapped=tracing.traced),
    ):
        with pipeline.engine.begin() as connection:
            with tracer.start_as_current_span("request") as request:
                writer.upsert(connection, document("a", "one"))
            writer.upsert(connection, document("untraced", "one"))
        expected = {"rag_outbox.publish", "rag_outbox.apply milvus", "rag_outbox.apply minio"}
        wait_for(lambda: spans(exporter, "a").keys() == expected, "the three spans")
        wait_for(lambda: _is_completed(pipeline.engine, "untraced"), "the untraced document")

    trace_id, root = request.get_span_context().trace_id, request.get_span_context().span_id
    for span in spans(exporter, "a").values():
        assert span.context.trace_id == trace_id
        assert span.parent is not None
        assert span.parent.span_id == root
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
        assert (span.attributes or {})["rag_outbox.version"] == 1
    assert spans(exporter, "untraced") == {}


def test_refused_event_ends_its_span_with_the_reason(
    pipeline: Pipeline, tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.start_as_current_span("request"), pipeline.engine.begin() as connection:
        Writer(MODEL, tracing=True).upsert(connection, document("a", "one"))
    with pipeline.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET payload = 'broken'"))
    [envelope] = pipeline.pending()
    [applier, _] = pipeline.appliers()
    assert Tracing(tracer).traced(applier).apply([envelope])
    [span] = spans(exporter, "a").values()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description


def _is_completed(engine: Engine, doc_id: str) -> bool:
    with engine.connect() as connection:
        statement = text("SELECT status FROM documents WHERE doc_id = :doc_id")
        return bool(connection.execute(statement, {"doc_id": doc_id}).scalar_one() == "completed")
