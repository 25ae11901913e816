"""Spans of the relay and of the consumers, in the trace that an event's headers name (extra `otel`).

The spans are made after the work, from its times, and only for events that carry a trace: so nothing is slower.
Where they go is set by OpenTelemetry's own variables, for instance OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relays.ports import OutboxRow
from schema.events.events import Envelope
from schema.failures import DeadLetter
from schema.sinks import Applier

_TRACEPARENT = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()


@contextmanager
def export_spans(process: str) -> Iterator["Tracing"]:
    """Export over OTLP; the spans that wait are sent when the context ends."""
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"rag-outbox-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Tracing(provider.get_tracer("rag-outbox"))
    finally:
        provider.shutdown()


class Tracing:
    """Records spans with this tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def note_published(self, rows: Iterable[OutboxRow]) -> None:
        """A span from the insert of each row to the commit of its Kafka transaction."""
        now = time.time_ns()
        for row in rows:
            if _TRACEPARENT in row.envelope.headers:
                began = round(datetime.fromisoformat(row.created_at).timestamp() * 1e9)
                _record(self._tracer, "rag_outbox.publish", row.envelope, began, now, kind=SpanKind.PRODUCER)

    def traced(self, applier: Applier) -> Applier:
        return TracedApplier(applier, self._tracer)


class TracedApplier:
    """An applier that records a span for each event: the time of its batch."""

    def __init__(self, applier: Applier, tracer: Tracer) -> None:
        self._applier = applier
        self._tracer = tracer

    @property
    def name(self) -> str:
        return self._applier.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        began = time.time_ns()
        dead = self._applier.apply(envelopes)
        ended = time.time_ns()
        refused = {id(letter.envelope): letter.reason for letter in dead}
        for envelope in envelopes:
            if _TRACEPARENT in envelope.headers:
                name = f"rag_outbox.apply {self.name}"
                reason = refused.get(id(envelope))
                _record(self._tracer, name, envelope, began, ended, kind=SpanKind.CONSUMER, refused=reason)
        return dead


def _record(
    tracer: Tracer,
    name: str,
    envelope: Envelope,
    began: int,
    ended: int,
    *,
    kind: SpanKind,
    refused: str | None = None,
) -> None:
    """`began` and `ended` are nanoseconds since 1970."""
    attributes: dict[str, str | int] = {"rag_outbox.doc_id": envelope.doc_id, "rag_outbox.version": envelope.version}
    parent = _PROPAGATOR.extract(dict(envelope.headers), context=trace.set_span_in_context(trace.INVALID_SPAN))
    span = tracer.start_span(name, parent, kind, attributes, start_time=min(began, ended))
    if refused is not None:
        span.set_status(Status(StatusCode.ERROR, refused))
    span.end(ended)
