"""The demo's crash drill works on a machine of any speed, and every failure is one line."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from operations import wiring
from operations.cli.output import Output
from operations.demo import crash_drill, demo
from operations.settings import Settings
from operations.wiring import System
from schema.threads import run_in_background
from tests.acceptance.conftest import Here
from tests.support.commands import Folder, children

pytestmark = pytest.mark.acceptance

_STOPPED_SECONDS, _GOING_SECONDS = 0.08, 0.02
_TEXT = "".join(f"# Part {number}\n\n{f'Sentence {number} of a text. ' * 30}\n\n" for number in range(450))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "text.md").write_text(_TEXT)
    return folder


@pytest.fixture
def system(folder: Folder) -> Iterator[System]:
    with wiring.open_system(Settings.model_construct(data_dir=folder.path)) as some:
        yield some


@contextmanager
def slowed(command: str) -> Iterator[None]:
    """Stop the rag-outbox process of this command with SIGSTOP for four fifths of the time."""

    def work(ended: threading.Event) -> None:
        going = False
        while not ended.wait(_GOING_SECONDS if going else _STOPPED_SECONDS):
            going = not going
            for pid in children(os.getpid()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if command in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                        os.kill(pid, signal.SIGCONT if going else signal.SIGSTOP)

    with run_in_background(work, "slow-down"):
        yield


@pytest.mark.parametrize("slow", ["nothing", "write", "run"])
def test_drill_kills_both_at_work_at_any_speed(
    slow: str, system: System, folder: Folder, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with slowed(slow):
        demo.show_crash_drill(system, texts, tmp_path / "demo.log", Output())
    said = capsys.readouterr().out
    assert "killed with 400 of 450 documents written and " in said
    assert "50 documents written, 400 already present" in said
    assert "0 differences" in said
    folder.assert_in_step()


def test_drill_names_the_log_of_a_process_that_ended(system: System, folder: Folder, tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with pytest.raises(crash_drill.DrillFailed, match=f"^rag-outbox write ended with status 1; its log: {log}$"):
        crash_drill.kill_in_the_middle(system, [b"no document\n"] * crash_drill.MIN_DOCUMENTS, "tag", log)
    assert "rag-outbox: line 1: " in log.read_text()
    assert folder.sql("SELECT * FROM documents") == []


def test_failed_demo_prints_one_line_and_keeps_the_traceback(
    here: Here, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "init", lambda _: 1 / 0)
    outcome = here(folder, "demo", "--folder", "shown")
    log = tmp_path / "shown" / "demo.log"
    assert outcome.status == 1
    assert outcome.err == f"rag-outbox: the demo failed: division by zero; its log: {log}\n"
    assert "ZeroDivisionError" in log.read_text()


def test_bug_prints_one_line_that_names_the_traceback(
    here: Here, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, str] = {}
    monkeypatch.setattr("operations.status.status", lambda _: nothing["missing"])
    outcome = here(folder, "status")
    assert outcome.status == 1
    said, _, log = outcome.err.removesuffix("\n").partition("; please report it with ")
    assert re.fullmatch(r"rag-outbox: unexpected KeyError in test_crash_drill.py, line \d+: 'missing'", said)
    traceback = Path(log)
    assert "KeyError: 'missing'" in traceback.read_text()
    traceback.unlink()
