"""Fixtures of the command: a copy of a data folder that `rag-outbox init` made, and the command in this process."""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from operations.cli import main as cli
from tests.support.commands import Folder, Outcome

Here = Callable[..., Outcome]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("prepared") / "data")
    outcome = folder.run("init")
    assert outcome.status == 0, outcome
    return folder


@pytest.fixture
def folder(prepared: Folder, tmp_path: Path) -> Folder:
    return Folder.copied(prepared, tmp_path / "data")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs the command in this process, for the many small cases: a new process takes a second to start."""

    def run(folder: Folder, *arguments: str, stdin: bytes = b"", **settings: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rag-outbox", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setattr(os, "environ", folder.environment(**settings))
        monkeypatch.chdir(folder.path.parent)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, said.out, said.err)

    return run
