"""The port of a policy: what it would remove, and the removal in small batches."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine, select

from schema.database.clock import utc_now
from schema.database.connection import reading

OPERATION_LOGS = "operation_logs"
DELETED_DOCUMENTS = "deleted_documents"
DEAD_LETTERS = "dead_letters"
PROCESSING_TASKS = "processing_tasks"
ARCHIVES = "archives"
NAMES = (OPERATION_LOGS, DELETED_DOCUMENTS, DEAD_LETTERS, PROCESSING_TASKS, ARCHIVES)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a policy would remove now: how many, the time of the oldest, and how many it must keep for now, and why."""

    count: int
    oldest: datetime | None = None
    blocked: int = 0
    note: str = ""


class Policy(Protocol):
    """Removes what is older than a number of days. Any number of processes may work on the same policy at once."""

    @property
    def name(self) -> str:
        """One of NAMES."""

    @property
    def every_seconds(self) -> float:
        """How long after a run that reached the end the next one begins."""

    @property
    def blocked(self) -> int:
        """How many the last `batches` found that are old enough and must be kept for now."""

    def preview(self) -> Preview:
        """Read only."""

    def batches(self) -> Generator[int, None, None]:
        """Remove a bounded batch per step, and yield how many it removed; the caller may stop after any step.

        Each batch is whole when it is yielded. Raises DBAPIError and the errors of `consumers.minio.translate`.
        """


def read_limit(engine: Engine, days: int) -> datetime:
    """What is older than this time, by the clock of the database, is to be removed."""
    with reading(engine) as connection:
        now: datetime = connection.execute(select(utc_now())).scalar_one()
    return now - timedelta(days=days)
