"""The real `rag-outbox` command on a data folder, and a look into the folder's stores that shares no code with it."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient

from operations.cli import main as cli
from tests.support.waiting import wait_for

_REPOSITORY = Path(__file__).parents[2]
_SCRIPT = Path(sys.executable).with_name("rag-outbox")
COMMAND = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-m", "operations.cli.main"]
_TIMEOUT_SECONDS = 280  # pytest's own is shorter, but for the demo
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.forked_modules"])


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    def __post_init__(self) -> None:
        assert "\x1b" not in self.out + self.err, "colours or a bar, and this is no terminal"
        assert "Traceback" not in self.err, self.err

    @property
    def facts(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        decoded = json.loads(self.out)
        assert isinstance(decoded, dict)
        assert self.out.count("\n") == 1
        return decoded


class Running:
    """A command at work: what the console script does, in a fork of a process that has imported everything.

    It starts a second sooner so. Leaving the context ends it.
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
        """What it has said on stderr so far."""
        return self._read("stderr")

    def ended(self, timeout_seconds: float = 60) -> Outcome:
        """Waits for its end."""
        self._process.join(timeout_seconds)
        assert self._process.exitcode is not None, f"no end within {timeout_seconds} seconds: {self.err}"
        return Outcome(self._process.exitcode, self._read("stdout"), self.err)

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
        """This process's, with no settings but those of this folder."""
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
        process = _FORKS.Process(target=_command, args=work)
        process.start()
        return Running(process, streams)

    def run(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Outcome:
        with self.start(*arguments, stdin=stdin, **settings) as running:
            return running.ended(_TIMEOUT_SECONDS)

    def succeed(self, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        """The facts of a command that ends well."""
        outcome = self.run(*arguments, "--json", stdin=stdin)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        return outcome.facts

    def sql(self, statement: str, *parameters: object) -> list[Any]:
        with closing(sqlite3.connect(self.path / "metadata.db")) as connection:
            return connection.execute(statement, parameters).fetchall()

    def dump(self) -> list[str]:
        """Everything in the database, as SQL."""
        with closing(sqlite3.connect(self.path / "metadata.db")) as connection:
            return list(connection.iterdump())

    def objects(self) -> dict[str, bytes]:
        root = self.path / "objects" / "rag-knowledge-base"
        files = (path for path in root.rglob("*") if path.is_file())
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
        return {key: content for key, content in found.items() if not key.startswith(".parts/")}

    @contextmanager
    def milvus(self) -> Iterator[MilvusClient]:
        """A client of a Milvus Lite in this process, once no other one has the folder."""
        path = str(self.path / "vectors.db")
        uri = wait_for(lambda: server_manager_instance.start_and_get_uri(path), "Milvus Lite to be free")
        try:
            with closing(MilvusClient(uri)) as client:
                client.load_collection("rag_vectors")
                yield client
        finally:
            server_manager_instance.release_server(path)

    def assert_in_step(self) -> None:
        """The three stores hold the same: nothing is lost, doubled, left over, pending, dead or wrongly marked."""
        assert self.sql("PRAGMA integrity_check") == [("ok",)]
        with self.milvus() as client:
            fields = ["chunk_id", "doc_id", "content_hash", "business_tag", "oss_id", "content"]
            found = client.query("rag_vectors", filter='chunk_id != ""', output_fields=fields, limit=16_000)
        rows = sorted(tuple(row[name] for name in fields[:5]) for row in found)
        assert rows == self.sql(
            "SELECT chunk_id, doc_id, content_hash, ifnull(business_tag, ''), ifnull(oss_key, '') "
            "FROM chunks JOIN documents USING (doc_id) ORDER BY chunk_id"
        )
        assert all(sha256(row["content"].encode()).hexdigest() == row["content_hash"] for row in found)
        objects = self.objects()
        archives = {key for key in objects if key.startswith("processed-data/embeddings/")}
        files = {key: sha256(objects[key]).hexdigest() for key in objects.keys() - archives}
        assert files == dict(self.sql("SELECT object_key, sha256 FROM document_files"))
        living = self.sql("SELECT DISTINCT doc_id FROM documents WHERE deleted_at IS NULL")
        assert {(key.split("/")[2],) for key in archives} == set(living)
        for table in ("outbox", "outbox_dead_letters", "chunk_tombstones"):
            assert self.sql(f"SELECT * FROM {table}") == [], table
        assert self.sql("SELECT * FROM chunks WHERE NOT milvus_synced") == []
        assert self.sql("SELECT * FROM documents WHERE status <> 'completed'") == []
        behind = "SELECT * FROM documents d, sink_states s USING (doc_id) WHERE s.applied_version <> d.version"
        assert self.sql(behind) == []
        miscounted = (
            "SELECT * FROM documents d WHERE chunk_count <> (SELECT count(*) FROM chunks WHERE doc_id = d.doc_id)"
        )
        assert self.sql(miscounted) == []


def _command(arguments: tuple[str, ...], environment: dict[str, str], folder: Path, streams: Path) -> None:
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(streams / stream, os.O_RDWR | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["rag-outbox", *arguments]
    cli.main()


def children(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]
