"""A check of the stores that the console runs in the background, and the repair of what it found. One at a time."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import insert

import producer
from operations.errors import OperationError, describe, report_bug
from operations.reconcile.pace import Interrupted
from operations.reconcile.reconcile import reconcile, scope_of
from operations.reconcile.repair import repair
from operations.reconcile.repair_plan import RepairPlan, plan_repair
from operations.reconcile.report import Report
from operations.wiring import System
from schema.database.tables import operation_logs, reconcile_reports

USABLE_SECONDS = 900.0  # after which a check is too old to repair what it found


class CheckRunning(OperationError):
    """Raised when a check is under way: wait for its end, or stop it."""


class NothingToRepair(OperationError):
    """Raised when no check of this console has just found something: start one first."""


@dataclass
class Check:
    """`error` is None for a check that runs or ended well."""

    began: datetime  # UTC
    operator: str
    full: bool
    compared: int = 0
    ended_at: float | None = None  # by the monotonic clock
    report: Report | None = None
    error: str | None = None

    @property
    def is_running(self) -> bool:
        return self.ended_at is None


class Checks:
    """Starts a check in a thread. It ends with this process; the next one begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Check | None = None

    def start(self, system: System, *, full: bool) -> None:
        """`full`: also the SHA-256 of every file. Raises CheckRunning."""
        with self._lock:
            if self.last is not None and self.last.is_running:
                raise CheckRunning(f"a check that {self.last.operator} started is under way")
            _log_check(system, {"check": "start", "full": full})
            self._stop = threading.Event()
            self.last = Check(datetime.now(UTC), system.operator, full)
            work = (system, self.last, self._stop)
            self._thread = threading.Thread(target=_run, args=work, name="console-check", daemon=True)
            self._thread.start()

    def stop(self, wait_seconds: float = 0.0) -> None:
        """Let the check end at its next key."""
        self._stop.set()
        if self._thread is not None and wait_seconds:
            self._thread.join(wait_seconds)

    def cancel(self, system: System) -> None:
        """`stop`, by an operator; nothing if no check runs."""
        if self.last is not None and self.last.is_running:
            _log_check(system, {"check": "stop"})
            self.stop()

    def plan(self, system: System) -> RepairPlan:
        """What a repair would do about the last check. Raises NothingToRepair."""
        check = self.last
        if check is None or check.ended_at is None or check.report is None:
            raise NothingToRepair("no check of this console has ended: start one first")
        if time.monotonic() - check.ended_at > USABLE_SECONDS:
            raise NothingToRepair("the last check is older than 15 minutes: start another one")
        return plan_repair(system.engine, check.report.differences)

    def repair(self, system: System, *, force: bool) -> Mapping[str, int]:
        """Do it. Returns the number of documents per action. Raises NothingToRepair, TooMuch."""
        with self._lock:
            plan = self.plan(system)
            done = repair(system.engine, system.store, plan, system.operator, force=force)
            self.last = None  # what it found is outdated: the next repair needs a new check
        return done


def _run(system: System, check: Check, stop: threading.Event) -> None:
    def advance(keys: int) -> None:
        check.compared += keys

    try:
        scope = scope_of(system, digests=check.full)
        check.report = reconcile(system, scope, stop=stop, advance=advance)
    except Interrupted:
        check.error = "stopped"
    except Exception as error:  # noqa: BLE001  # the page shows it
        check.error = describe(error) or report_bug(error)
    finally:
        check.ended_at = time.monotonic()


def _log_check(system: System, payload: Mapping[str, object]) -> None:
    row = {
        "operation_type": "SYNC",
        "target_table": reconcile_reports.name,
        "target_id": "check",
        "payload": payload,
        "operator": system.operator,
    }
    producer.run(system.engine, lambda connection: connection.execute(insert(operation_logs), [row]))
