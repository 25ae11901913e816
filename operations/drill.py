"""The demo's crash: `ingest` and `run` as processes of their own, killed with SIGKILL while both are at work."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from operations import milvus_lite
from operations.settings import PREFIX
from operations.system import System
from schema.database import reading
from schema.tables import documents, outbox

_DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Killed:
    """Of the folder's documents, when the processes died: committed, and held by every store."""

    written: int
    applied: int
    pending: int  # events


def kill_in_the_middle(opened: System, folder: Path, count: int) -> Killed:
    """Ingest `folder` of `count` files and run, and kill both once a third is written and some of it applied."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    processes: list[subprocess.Popen[bytes]] = []
    data_dir = opened.settings.data_dir

    def start(*arguments: str) -> None:
        others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment = others | {f"{PREFIX}DATA_DIR": str(data_dir)}
        command = [sys.executable, "-m", "operations.command", *arguments]
        quiet = subprocess.DEVNULL
        # The demo's stores alone: no setting of the user's, nor the `.env` of the folder that the demo started in.
        processes.append(subprocess.Popen(command, cwd=data_dir, env=environment, stdout=quiet, stderr=quiet))

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition() and time.monotonic() < deadline and all(one.poll() is None for one in processes):
            time.sleep(_POLL_SECONDS)

    def amid() -> bool:
        seen = _look(opened, folder)
        return 3 * seen.written >= count and seen.applied > 0

    try:
        start("run")
        wait_for(
            lambda: opened.settings.milvus_lite is None or milvus_lite.served(opened.settings.milvus_lite) is not None
        )
        start("ingest", str(folder), "--business-tag", folder.name)
        wait_for(amid)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
    return _look(opened, folder)


def _look(opened: System, folder: Path) -> Killed:
    mine = documents.c.business_tag == folder.name
    counted = select(func.count()).select_from(documents).where(mine)
    with reading(opened.engine) as connection:
        return Killed(
            connection.execute(counted).scalar_one(),
            connection.execute(counted.where(documents.c.status == "completed")).scalar_one(),
            connection.execute(select(func.count()).select_from(outbox)).scalar_one(),
        )
