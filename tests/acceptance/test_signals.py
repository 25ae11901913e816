"""SIGTERM or Ctrl-C ends `rag-outbox run` with status 0 after the current batch."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import Here
from tests.support.commands import COMMAND, Folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


def test_run_finishes_its_batch_after_sigterm_or_ctrl_c(folder: Folder, here: Here) -> None:
    documents = [
        {"doc_id": f"doc-{number}", "title": "T", "source_type": "text", "chunks": [{"content": f"Words {number}."}]}
        for number in range(1_200)  # more than two batches
    ]
    assert here(folder, "write", "-", stdin="\n".join(map(json.dumps, documents)).encode()).status == 0

    by_supervisor = _relayed_until_stopped(folder, lambda process: os.kill(process.pid, signal.SIGTERM))
    assert by_supervisor in {500, 1_000, 1_200}
    by_ctrl_c = _relayed_until_stopped(folder, lambda process: os.killpg(process.pid, signal.SIGINT))  # Milvus Lite too
    assert by_supervisor + by_ctrl_c in {1_000, 1_200}

    folder.succeed("run", "--until-idle")
    folder.assert_in_step()


def _relayed_until_stopped(folder: Folder, stop: Callable[[subprocess.Popen[str]], None]) -> int:
    """Stop a run at work. Returns the number of events that it reports."""
    before = _waiting(folder)
    with subprocess.Popen(
        [*COMMAND, "run", "--json"],
        env=folder.environment(),
        cwd=folder.path.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its own process group, as in a terminal
    ) as process:
        wait_for(lambda: _waiting(folder) < before, "a batch to be settled")
        stop(process)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    relayed = int(json.loads(out)["events"])
    assert _waiting(folder) == before - relayed
    assert not (folder.path / "run.json").exists()
    return relayed


def _waiting(folder: Folder) -> int:
    ((count,),) = folder.sql("SELECT count(*) FROM outbox")
    return int(count)


def test_each_reading_in_a_pipe_has_its_time(folder: Folder) -> None:
    with subprocess.Popen(
        [*COMMAND, "status", "--watch"],
        env=folder.environment(),
        cwd=folder.path.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", first)
    assert second == "Documents: none\n"


def test_watched_status_is_shown_again_until_ctrl_c(folder: Folder, here: Here) -> None:
    with subprocess.Popen(
        [*COMMAND, "status", "--watch", "--json"],
        env=folder.environment(),
        cwd=folder.path.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pending_events"] == 0
        line = json.dumps({"doc_id": "d", "title": "T", "source_type": "text", "chunks": [{"content": "Words."}]})
        assert here(folder, "write", "-", stdin=line.encode()).status == 0
        shown = (json.loads(line) for line in process.stdout)
        assert next(one for one in shown if one["pending_events"])["sinks"]["milvus"]["unapplied"] == 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
