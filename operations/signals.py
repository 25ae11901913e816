"""SIGTERM and Ctrl-C end a long-running command after the current batch."""

import logging
import os
import signal
import sys
import threading

from schema.threads import STOP_SECONDS

_log = logging.getLogger(__name__)


def stop_on_signals() -> threading.Event:
    """Returns an event that SIGTERM and SIGINT set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def end_in_time(stop: threading.Event) -> None:
    """End this process with status 1 when it has not ended STOP_SECONDS after `stop` was set: a call hangs.

    What it had begun is not committed, and the next owner repeats it.
    """

    def end() -> None:
        stop.wait()
        threading.Event().wait(STOP_SECONDS)
        _log.error("stop_forced seconds=%g", STOP_SECONDS)
        sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=end, name="end-in-time", daemon=True).start()
