"""`rag-outbox monitor`."""

from operations import settings

EXAMPLE = "rag-outbox monitor"


def command() -> None:
    """Serve the backlog of the whole system as metrics (services profile).

    One of these processes is enough. It shows what waits even when every relay and consumer is dead.
    SIGTERM and Ctrl-C end the process.
    """
    from operations import wiring
    from operations.profiles import services
    from operations.signals import stop_on_signals

    stop = stop_on_signals()
    with wiring.open_system(settings.load(), wait_until=stop) as system:
        services.monitor(system, stop)
