"""The sinks of the embedded profile: an optional one that fails does not hold up the queue that all of them share."""

import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from consumers.applier import Applier
from consumers.metrics import ConsumerMetrics, MeasuredApplier, MeasuredRefill
from consumers.refill import Refill
from consumers.sink import Sink
from operations.monitoring.process import Process
from operations.profiles.optional_sinks import OptionalApplier, OptionalRefill
from operations.sinks import open_sink
from operations.wiring import System
from schema import sinks as port
from schema.failures import Retryable
from schema.retry import call_with_retry


@dataclass(frozen=True)
class EmbeddedSink:
    """An open sink, with what applies events to it and what refills it."""

    sink: Sink
    is_required: bool
    applier: port.Applier
    refill: MeasuredRefill | OptionalRefill


def open_sinks(
    system: System, process: Process, metrics: ConsumerMetrics, names: Iterable[str], stack: ExitStack
) -> list[EmbeddedSink]:
    """Open the sinks of these names; `stack` closes them."""
    required = {sink.name for sink in system.identity.sinks if sink.is_gating}
    return [_open(system, process, metrics, name, stack, is_required=name in required) for name in names]


def _open(
    system: System, process: Process, metrics: ConsumerMetrics, name: str, stack: ExitStack, *, is_required: bool
) -> EmbeddedSink:
    sink, marks = open_sink(system, name)
    stack.callback(sink.close)
    retries = process.metrics.retries
    applier = MeasuredApplier(Applier(system.engine, sink, marks), metrics, retries)
    refill = MeasuredRefill(Refill(system.engine, sink, marks, system.store), name, metrics, retries)
    if is_required:
        return EmbeddedSink(sink, is_required, applier, refill)
    return EmbeddedSink(sink, is_required, OptionalApplier(applier, system.engine), OptionalRefill(refill, name))


def await_store(
    one: EmbeddedSink,
    stop: threading.Event,
    patience_seconds: float | None,
    failing: Callable[[str, float], None],
) -> None:
    """Check the store of a sink. While it is away, repeat the check if the sink is required. Raises Retryable."""
    try:
        call_with_retry(
            one.sink.ensure,
            attempts=None if one.is_required else 1,
            stop=stop,
            seconds=patience_seconds,
            report=lambda error, seconds: failing(f"{one.sink.name}: {error}", seconds),
        )
    except Retryable:
        if one.is_required:
            raise
