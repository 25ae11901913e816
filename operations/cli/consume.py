"""`rag-outbox consume`."""

from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "rag-outbox consume milvus"


def command(
    sink: Annotated[
        str, typer.Argument(help="The store to keep up to date: milvus, minio, or another of `sinks list`.")
    ],
    as_json: Json = False,
) -> None:
    """Apply events from Kafka to one store (services profile).

    Any number of these processes may run per store; they share the documents.
    SIGTERM and Ctrl-C end the process after the current batch.
    """
    from operations import wiring
    from operations.profiles import services
    from operations.signals import stop_on_signals

    output = Output(json=as_json)
    stop = stop_on_signals()
    with wiring.open_system(settings.load(), wait_until=stop) as system:
        consumed = services.consume(system, sink, stop)
    output.result({"events": consumed, "retries": system.retries}, f"Applied {count(consumed, 'event')} to {sink}.")
