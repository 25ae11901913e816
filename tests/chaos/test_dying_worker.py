"""A worker of the task queue that dies at any step loses no task, and none takes effect twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.dying_worker import POINTS
from tests.support.servers import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_next_worker_finishes_the_task_of_a_dead_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.dying_worker", str(tmp_path / "work")]
    (tmp_path / "work").mkdir()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == sum(len(hits) for _, _, hits in POINTS)
    assert all(line.endswith(" died") for line in lines), lines
