"""`rag-outbox reconcile --every`: one run after another until SIGTERM, with metrics."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from operations.errors import describe
from operations.monitoring.process import Process
from operations.reconcile.metrics import ReconcileMetrics
from operations.reconcile.pace import Interrupted
from operations.reconcile.reconcile import reconcile
from operations.reconcile.scope import Scope
from operations.wiring import System

_log = logging.getLogger(__name__)

_LOGGED = 10  # differences per run
_PROGRESS_SECONDS = 5.0


def run_periodically(
    system: System, find_scope: Callable[[], Scope], every_seconds: float, stop: threading.Event, *, rate: float = 0.0
) -> int:
    """Begin a run at each interval, or after the last one if that takes longer. Returns the number of runs.

    `find_scope` is called before each run, because a rebuild changes which instance of Milvus searches use. The first
    run continues one that was interrupted. A store that does not answer ends one run, and is no error.
    """
    process = Process(system, "reconcile")
    metrics = ReconcileMetrics(process.registry)
    runs = 0
    with process.serve():
        while not stop.is_set():
            began = time.monotonic()
            process.metrics.note_progress()
            try:
                report = reconcile(
                    system,
                    find_scope(),
                    rate=rate,
                    resume=runs == 0,
                    stop=stop,
                    advance=lambda _: process.metrics.note_progress(),
                )
            except Interrupted:
                break
            except Exception as error:
                reason = describe(error)
                if reason is None:
                    raise
                metrics.failures.inc()
                _log.warning("reconcile_failed reason=%s", reason)
            else:
                runs += 1
                metrics.note(report, report.scope.sinks)
                _log_report(report.to_facts(_LOGGED))
            while not stop.is_set() and (left := began + every_seconds - time.monotonic()) > 0:
                process.metrics.note_progress()
                stop.wait(min(left, _PROGRESS_SECONDS))
    return runs


def _log_report(facts: dict[str, Any]) -> None:
    level = logging.INFO if facts["healthy"] else logging.WARNING
    compared = sum(facts["compared"].values())
    _log.log(
        level, "reconciled compared=%d differences=%d seconds=%s", compared, facts["differences"], facts["seconds"]
    )
    for one in facts["first"]:
        _log.warning("difference store=%s kind=%s doc_id=%s key=%s detail=%s", *one.values())
