"""The real `rag-outbox` command on a data folder, and direct access to the folder's stores."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient

from operations.cli import main as cli
from schema.object_store.layout import SYSTEM_ID_KEY
from tests.support import in_step
from tests.support.waiting import wait_for

_REPOSITORY = Path(__file__).parents[2]
_SCRIPT = Path(sys.executable).with_name("rag-outbox")
COMMAND = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-m", "operations.cli.main"]
_TIMEOUT_SECONDS = 280  # pytest's own is shorter, but for the demo
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.forked_modules"])


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    def __post_init__(self) -> None:
        assert "\x1b" not in self.out + self.err, "colours or a progress bar without a terminal"
        assert "Traceback" not in self.err, self.err

    @property
    def facts(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        decoded = json.loads(self.out)
        assert isinstance(decoded, dict)
        assert self.out.count("\n") == 1
        return decoded


class Running:
    """A running command: the console script's function in a fork of a process that has imported everything.

    The fork starts a second sooner. Leaving the context ends the command.
    """

    def __init__(self, process: BaseProcess, streams: TemporaryDirectory[str]) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._streams = streams

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.join()
        self._process.close()
        self._streams.cleanup()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    @property
    def err(self) -> str:
        """Its stderr so far."""
        return self._read("stderr")

    @property
    def out(self) -> str:
        """Its stdout so far."""
        return self._read("stdout")

    def ended(self, timeout_seconds: float = 60) -> Outcome:
        """Wait for its end."""
        self._process.join(timeout_seconds)
        assert self._process.exitcode is not None, f"still running after {timeout_seconds} seconds: {self.err}"
        return Outcome(self._process.exitcode, self.out, self.err)

    def _read(self, stream: str) -> str:
        return Path(self._streams.name, stream).read_text()


class Folder:
    """A data folder; `settings` are given without their prefix and win over the folder's own."""

    def __init__(self, path: Path, **settings: str) -> None:
        self.path = path
        self.settings = {"data_dir": str(path)} | settings

    @classmethod
    def copied(cls, prepared: "Folder", path: Path) -> "Folder":
        shutil.copytree(prepared.path, path)
        return cls(path, **prepared.settings | {"data_dir": str(path)})

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of this process, with the settings of this folder only."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("RAG_OUTBOX_")}
        if not _SCRIPT.exists():
            others["PYTHONPATH"] = str(_REPOSITORY)
        ours = {f"RAG_OUTBOX_{name.upper()}": value for name, value in (self.settings | settings).items()}
        return others | ours

    def start(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Running:
        streams = TemporaryDirectory()
        for name, content in (("stdin", stdin), ("stdout", b""), ("stderr", b"")):
            Path(streams.name, name).write_bytes(content)
        work = (arguments, self.environment(**settings), self.path.parent, Path(streams.name))
        process = FORKS.Process(target=run_command_here, args=work)
        process.start()
        return Running(process, streams)

    def run(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Outcome:
        with self.start(*arguments, stdin=stdin, **settings) as running:
            return running.ended(_TIMEOUT_SECONDS)

    def succeed(self, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        """Run a command that must succeed; returns its facts."""
        outcome = self.run(*arguments, "--json", stdin=stdin)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        return outcome.facts

    def sql(self, statement: str, *parameters: object) -> list[Any]:
        with closing(sqlite3.connect(self.path / "metadata.db")) as connection:
            return connection.execute(statement, parameters).fetchall()

    def change(self, statement: str) -> None:
        """Change the database behind the back of all processes."""
        with closing(sqlite3.connect(self.path / "metadata.db")) as connection, connection:
            connection.execute(statement)

    def dump(self) -> list[str]:
        """Everything in the database, as SQL."""
        with closing(sqlite3.connect(self.path / "metadata.db")) as connection:
            return list(connection.iterdump())

    def objects(self) -> dict[str, bytes]:
        root = self.path / "objects" / "rag-knowledge-base"
        files = (path for path in root.rglob("*") if path.is_file())
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
        return {
            key: content for key, content in found.items() if key != SYSTEM_ID_KEY and not key.startswith(".parts/")
        }

    @contextmanager
    def milvus(self) -> Iterator[MilvusClient]:
        """A client of a Milvus Lite in this process; waits until no other process holds the folder."""
        path = str(self.path / "vectors.db")
        uri = wait_for(lambda: server_manager_instance.start_and_get_uri(path), "Milvus Lite to be free")
        try:
            with closing(MilvusClient(uri)) as client:
                client.load_collection("rag_vectors")
                yield client
        finally:
            server_manager_instance.release_server(path)

    def assert_in_step(self) -> None:
        """The three stores hold the same documents, and the database is whole."""
        assert self.sql("PRAGMA integrity_check") == [("ok",)]
        with self.milvus() as client:
            fields = [*in_step.FIELDS, "content"]
            rows = client.query("rag_vectors", filter='chunk_id != ""', output_fields=fields, limit=16_000)
        in_step.assert_in_step(self.sql, rows, self.objects())


def run_command_here(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, streams: Path) -> None:
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(streams / stream, os.O_RDWR | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["rag-outbox", *arguments]
    cli.main()


def children(pid: int) -> list[int]:
    """The running child processes of a process."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += [int(child) for child in thread.read_text().split()]
    return found
