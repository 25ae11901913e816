"""SIGTERM and Ctrl-C end a long-running command after the current batch."""

import signal
import threading


def stop_on_signals() -> threading.Event:
    """Returns an event that SIGTERM and SIGINT set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
