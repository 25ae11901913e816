"""The demo's crash drill: kill the processes `write` and `run` with SIGKILL while both have work left.

Both have work left by construction, on a machine of any speed. `write` reads from a pipe that stays open, so it never
finishes. It gets its second share of documents only after `run` is dead, so `run` cannot apply all documents.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from operations.errors import OperationError
from operations.ingest.write import BATCH_DOCUMENTS
from operations.settings import PREFIX
from operations.wiring import System
from schema.database.connection import reading
from schema.database.tables import documents, outbox

SHARE = 2 * BATCH_DOCUMENTS  # documents that `write` commits before `run` is killed, and again before its own end
MIN_DOCUMENTS = 2 * SHARE + 2  # with fewer, `write` would have read all of its input

_DEADLINE_SECONDS = 120.0
_POLL_SECONDS = 0.02


class DrillFailed(OperationError):
    """Raised when a process of the drill ends by itself or hangs; the message names its log."""


@dataclass(frozen=True)
class Killed:
    """The content of the database after both processes were killed."""

    written: int  # documents, committed
    applied: int  # documents that every store holds
    pending: int  # events in the outbox


def kill_in_the_middle(system: System, lines: Sequence[bytes], business_tag: str, log: Path) -> Killed:
    """Send `lines` to `rag-outbox write`, and kill it and a `rag-outbox run` while both have work left.

    `lines` are at least MIN_DOCUMENTS lines of JSON, one document per line, all with `business_tag`. Both processes
    write their errors to `log`. Returns with 0 < applied < written < len(lines). Raises DrillFailed.
    """
    with _start(system, log, "run") as run, _start(system, log, "write", "-") as write:

        def wait_for(condition: Callable[[Killed], bool], what: str, *alive: "subprocess.Popen[bytes]") -> None:
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while not condition(_look(system, business_tag)):
                for process in alive:
                    if process.poll() is not None:
                        command = "rag-outbox run" if process is run else "rag-outbox write"
                        raise DrillFailed(f"{command} ended with status {process.returncode}; its log: {log}")
                if time.monotonic() > deadline:
                    raise DrillFailed(f"{what} took more than {_DEADLINE_SECONDS:.0f} seconds; the log: {log}")
                time.sleep(_POLL_SECONDS)

        _feed(write, lines[: SHARE + 1])  # `write` commits a full batch after it has read one more line
        wait_for(lambda seen: seen.applied > 0, "applying the first documents", run, write)
        _kill(run)
        _feed(write, lines[SHARE + 1 : 2 * SHARE + 1])
        wait_for(lambda seen: seen.written == 2 * SHARE, f"writing {2 * SHARE} documents", write)
        _kill(write)
    return _look(system, business_tag)


@contextmanager
def _start(system: System, log: Path, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a rag-outbox command on the stores of the demo; it sees no settings and no `.env` of the user."""
    data_dir = system.settings.data_dir
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "operations.cli.main", *arguments],
            cwd=data_dir,
            env=others | {f"{PREFIX}DATA_DIR": str(data_dir)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield process
    finally:
        _kill(process)


def _feed(process: "subprocess.Popen[bytes]", lines: Sequence[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it ended: wait_for reports that
        process.stdin.write(b"".join(lines))
        process.stdin.flush()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    with suppress(BrokenPipeError):
        process.communicate()


def _look(system: System, business_tag: str) -> Killed:
    counted = select(func.count()).select_from(documents).where(documents.c.business_tag == business_tag)
    with reading(system.engine) as connection:
        return Killed(
            connection.execute(counted).scalar_one(),
            connection.execute(counted.where(documents.c.status == "completed")).scalar_one(),
            connection.execute(select(func.count()).select_from(outbox)).scalar_one(),
        )
