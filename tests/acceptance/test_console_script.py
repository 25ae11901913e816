"""Ctrl-C and a reader that closes the pipe end the real console script without a traceback."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.commands import COMMAND, Folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance

INTERRUPTED = (130, "", "rag-outbox: interrupted\n")
_SLOW_MODULE = """
import sys, time
from pathlib import Path
if Path(sys.argv[0]).name in ("rag-outbox", "main.py"):
    Path({started!r}).touch()
    time.sleep(600)
"""


@contextmanager
def script(
    folder: Folder, *arguments: str, environment: Mapping[str, str] | None = None, stderr: int = subprocess.PIPE
) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=folder.environment() | dict(environment or {}),
        cwd=folder.path.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("module", ["typer", "sqlalchemy", "pymilvus", "wordllama"])
def test_ctrl_c_during_an_import_is_one_line(module: str, folder: Folder, tmp_path: Path) -> None:
    started = tmp_path / "started"
    path = tmp_path / "modules"
    path.mkdir()
    (path / f"{module}.py").write_text(_SLOW_MODULE.format(started=str(started)))

    with script(folder, "search", "cats", environment={"PYTHONPATH": f"{path}:{os.getcwd()}"}) as process:
        wait_for(lambda: started.exists() or process.poll() is not None, f"the import of {module}")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out, err) == INTERRUPTED


def test_ctrl_c_with_json_is_one_object(folder: Folder, tmp_path: Path) -> None:
    started = tmp_path / "started"
    (tmp_path / "typer.py").write_text(_SLOW_MODULE.format(started=str(started)))

    with script(folder, "status", "--json", environment={"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}) as process:
        wait_for(lambda: started.exists() or process.poll() is not None, "the import of typer")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, json.loads(out), err) == (130, {"error": "interrupted"}, INTERRUPTED[2])


@pytest.mark.parametrize("arguments", [["write", "-"], ["write", "pipe.jsonl"]], ids=["stdin", "file"])
def test_ctrl_c_while_a_bar_is_shown_is_one_line(arguments: list[str], folder: Folder) -> None:
    os.mkfifo(folder.path.parent / "pipe.jsonl")
    fifo = os.open(folder.path.parent / "pipe.jsonl", os.O_RDWR)  # open for writing: a reader waits for its first line
    terminal, stderr = pty.openpty()
    with script(folder, *arguments, stderr=stderr) as process:
        os.close(stderr)
        assert process.stdin is not None
        shown = read_until(terminal, "Writing")
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, None)
        out, _ = process.communicate(timeout=60)
    os.close(terminal)
    os.close(fifo)

    assert (process.returncode, out) == (130, "")
    assert shown.endswith("rag-outbox: interrupted; wrote 0 documents with 0 chunks; 0 unchanged.\r\n")
    assert "Traceback" not in shown


def read_until(terminal: int, text: str | None) -> str:
    """What a terminal shows, until `text`, or until the process ends."""
    shown = b""
    with suppress(OSError):  # the other end is closed
        while (text is None or text.encode() not in shown) and (some := os.read(terminal, 65_536)):
            shown += some
    return shown.decode()


@pytest.fixture(scope="module")
def searchable(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with more text to find than a pipe holds."""
    folder = Folder.copied(prepared, tmp_path_factory.mktemp("searchable") / "data")
    documents = [
        {
            "doc_id": f"doc-{number}",
            "title": "Cats " * 90,
            "source_type": "text",
            "chunks": [{"content": f"Cats sleep {number} hours."}],
        }
        for number in range(500)
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, documents)).encode())
    folder.succeed("run", "--until-idle")
    return folder


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_reader_that_closes_the_pipe_ends_search_silently(more: list[str], searchable: Folder) -> None:
    buffered = {"PYTHONUNBUFFERED": ""}  # otherwise Python ignores that it wrote only the first part of a long line
    with script(searchable, "search", "cats", "--limit", "500", *more, environment=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        process.wait(60)

    assert (process.returncode, err) == (1, "")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["--help"], ["search", "--help"]])
def test_pipe_closed_before_the_first_line_ends_silently(arguments: list[str], folder: Folder) -> None:
    with script(folder, *arguments, environment={"PYTHONUNBUFFERED": ""}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(60)

    assert (process.returncode, err) == (1, "")
