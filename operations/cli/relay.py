"""`rag-outbox relay`."""

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 rag-outbox relay"


def command(as_json: Json = False) -> None:
    """Publish events to Kafka, exactly once and in order per document (services profile).

    Any number of these processes may run; they share the lanes.
    SIGTERM and Ctrl-C end the process after the current batch.
    """
    from operations import wiring
    from operations.profiles import services
    from operations.signals import stop_on_signals

    output = Output(json=as_json)
    stop = stop_on_signals()
    with wiring.open_system(settings.load(), wait_until=stop) as system:
        published = services.relay(system, stop)
    output.result({"published": published, "retries": system.retries}, f"Published {count(published, 'event')}.")
