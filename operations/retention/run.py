"""Run policies batch by batch, with a time limit, and with pauses that leave the database at least half of the time."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Engine

from operations.retention import runs
from operations.retention.archives import Archives
from operations.retention.dead_letters import old_dead_letters
from operations.retention.deleted_documents import DeletedDocuments
from operations.retention.operation_logs import old_operation_logs
from operations.retention.policy import Policy
from operations.retention.processing_tasks import old_processing_tasks
from operations.settings import Settings
from schema.object_store.port import ObjectStore

_SOON = 3_600.0  # until a run goes on that its time ended


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of a policy did; `is_complete`: it reached the end."""

    removed: int
    blocked: int
    seconds: float
    is_complete: bool


def policies_of_database(engine: Engine, settings: Settings) -> list[Policy]:
    """Those of the database that the settings ask for; 0 days keep everything."""
    days = {
        old_operation_logs: settings.retention_operation_logs_days,
        DeletedDocuments: settings.retention_deleted_documents_days,
        old_dead_letters: settings.retention_dead_letters_days,
        old_processing_tasks: settings.retention_processing_tasks_days,
    }
    return [cast(Policy, make(engine, number)) for make, number in days.items() if number]


def policies_of_store(engine: Engine, store: ObjectStore, settings: Settings) -> list[Policy]:
    """Those of the object store that the settings ask for."""
    days = settings.retention_archives_days
    return [Archives(engine, store, days)] if days else []


def run_policy(
    engine: Engine,
    policy: Policy,
    stop: threading.Event,
    *,
    seconds: float | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Ran:
    """Run one policy until it reaches its end, `seconds` have passed or `stop` is set. Each batch is noted.

    Raises DBAPIError and the errors of `consumers.minio.translate`; what was removed until then stays removed.
    """
    began = time.monotonic()
    removed, is_complete = 0, True
    with closing(policy.batches()) as batches:
        batch_began = began
        for count in batches:
            if count:
                runs.note(engine, policy.name, count)
            removed += count
            advance(count)
            ended = time.monotonic()
            if stop.is_set() or (seconds is not None and ended - began >= seconds):
                is_complete = False
                break
            stop.wait(ended - batch_began)
            batch_began = time.monotonic()
    took = time.monotonic() - began
    runs.end(
        engine,
        policy.name,
        seconds=took,
        blocked=policy.blocked if is_complete else None,
        due_seconds=policy.every_seconds if is_complete else _SOON,
    )
    return Ran(removed, policy.blocked, took, is_complete)


def run_due(engine: Engine, policies: Sequence[Policy], stop: threading.Event, *, seconds: float) -> dict[str, int]:
    """Run the policies that are due and that no other process has claimed. Returns what each removed, by name."""
    removed = {}
    for policy in policies:
        known = runs.read(engine).get(policy.name)
        if stop.is_set() or (known is not None and not known.is_due) or not runs.claim(engine, policy.name):
            continue
        removed[policy.name] = run_policy(engine, policy, stop, seconds=seconds).removed
    return removed
