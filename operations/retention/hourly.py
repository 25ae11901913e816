"""Retention in the background of a process: it looks once per minute which policies are due, and runs these."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from operations.retention import runs
from operations.retention.metrics import RetentionMetrics
from operations.retention.policy import Policy
from operations.retention.run import run_due
from schema.failures import Permanent, Retryable, StoreMissing
from schema.threads import run_in_background

_LOOK_SECONDS = 60.0
_RUN_SECONDS = 300.0  # of one policy; the next run continues where it ended
_STOP_SECONDS = 5.0  # how long the end of a process waits for a batch

_log = logging.getLogger(__name__)


@contextmanager
def retain_hourly(
    engine: Engine, policies: Sequence[Policy], metrics: RetentionMetrics | None = None
) -> Iterator[None]:
    """Run what is due until the context ends, in a thread of its own. Any number of processes may do so at once."""
    with run_in_background(lambda stop: _run(engine, policies, metrics, stop), "retention", _STOP_SECONDS):
        yield


def _run(engine: Engine, policies: Sequence[Policy], metrics: RetentionMetrics | None, stop: threading.Event) -> None:
    while not stop.is_set():
        for policy in policies:
            if not _run_one(engine, policy, stop):
                break
        if metrics is not None:
            _read(engine, metrics)
        stop.wait(_LOOK_SECONDS)


def _run_one(engine: Engine, policy: Policy, stop: threading.Event) -> bool:
    """A policy that fails is tried again after its lease. Returns whether the database answers."""
    try:
        for name, removed in run_due(engine, [policy], stop, seconds=_RUN_SECONDS).items():
            if removed:
                _log.info("retention_removed policy=%s removed=%d", name, removed)
    except (Retryable, Permanent, StoreMissing) as error:
        _log.warning("retention_failed policy=%s reason=%s", policy.name, error)
    except DBAPIError as error:
        _log.warning("retention_failed policy=%s reason=metadata database: %s", policy.name, error.orig)
        return False
    return True


def _read(engine: Engine, metrics: RetentionMetrics) -> None:
    try:
        metrics.runs = runs.read(engine)
    except DBAPIError:  # the next look tells
        metrics.runs = {}
