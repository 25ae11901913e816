"""SIGKILL thirty times at a random moment of `rag-outbox run` under load, half of the times to its Milvus Lite too."""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from producer import Writer
from schema.database.connection import connect
from tests.support.commands import Folder, Running, children
from tests.support.pipeline import DIMENSION, MODEL, document, vector
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

KILLS = 30
DOCUMENTS = 80
_PAUSE_SECONDS = 0.1  # between two transactions
SMALL_MEMTABLE = ("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", "200000")  # makes it write and merge files all the time
SEED = int(os.environ.get("RAG_OUTBOX_TEST_SEED") or random.randrange(2**32))

State = tuple[str | None, list[str]]  # the tag and the chunks' contents, in order


class Load:
    """Inserts, updates and deletes, one transaction each, until `enough` is set."""

    def __init__(self, folder: Folder) -> None:
        self.expected: dict[str, State] = {}  # committed documents that are not deleted
        self.enough = threading.Event()
        self._engine = connect(f"sqlite:///{folder.path / 'metadata.db'}")
        self._random = random.Random(SEED + 1)
        self._writer = Writer(MODEL)

    def write(self) -> None:
        try:
            while not self.enough.wait(_PAUSE_SECONDS):
                self._write()
        finally:
            self._engine.dispose()

    def _write(self) -> None:
        doc_ids = self._random.sample([f"doc-{number}" for number in range(DOCUMENTS)], self._random.randint(1, 4))
        deleted = [doc_id for doc_id in doc_ids if doc_id in self.expected and self._random.random() < 0.2]
        changed = {doc_id: self._state() for doc_id in doc_ids if doc_id not in deleted}
        with self._engine.begin() as connection:
            if deleted:
                self._writer.delete_many(connection, deleted)
            self._writer.upsert_many(
                connection,
                [
                    document(doc_id, *contents, business_tag=tag, file=f"{doc_id} {contents}".encode())
                    for doc_id, (tag, contents) in changed.items()
                ],
            )
        self.expected |= changed
        for doc_id in deleted:
            del self.expected[doc_id]

    def _state(self) -> State:
        words = self._random.sample(("one", "two", "three", "four", "five", "six"), self._random.randint(1, 5))
        return self._random.choice((None, "hr", "legal")), words


@contextmanager
def loaded(folder: Folder) -> Iterator[Load]:
    load = Load(folder)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(load.write)
        try:
            yield load
        finally:
            load.enough.set()
        written.result()


@pytest.mark.timeout(300)
def test_thirty_random_kills_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*SMALL_MEMTABLE)
    sys.stdout.write(f"RAG_OUTBOX_TEST_SEED={SEED}\n")
    folder = Folder(tmp_path / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")
    chance = random.Random(SEED)

    with loaded(folder) as load:
        for number in range(KILLS):
            before = _settled(folder), _endpoint(folder)
            with folder.start("run") as run:
                _wait_for_a_moment(chance, folder, run.pid, *before)
                _kill(run, children(run.pid) if number % 2 == 1 else [])
        sys.stdout.write(f"{_settled(folder)} events left the outbox between the kills\n")

    assert _settled(folder) > 0
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()
    _assert_expected(folder, load.expected)


def _kill(run: Running, servers: list[int]) -> None:
    run.kill()
    for server in servers:
        with suppress(ProcessLookupError):  # the folder's lock refused it, so it ended by itself
            os.kill(server, signal.SIGKILL)
    assert run.ended().status == -signal.SIGKILL


def _wait_for_a_moment(chance: random.Random, folder: Folder, pid: int, settled: int, endpoint: int) -> None:
    """Wait until some milliseconds after a random stage of the run."""
    stages: dict[str, Callable[[], bool]] = {
        "started": lambda: True,
        "holding the folder": (folder.path / "run.json").exists,
        "starting Milvus Lite": lambda: bool(children(pid)),
        "connected to Milvus Lite": lambda: _endpoint(folder) != endpoint,
        "at work": lambda: _settled(folder) > settled,
    }
    stage = chance.choice([*stages, "at work", "at work", "at work"])
    wait_for(stages[stage], f"a run {stage}")
    threading.Event().wait(chance.uniform(0, 0.3))


def _settled(folder: Folder) -> int:
    """The number of events that left the outbox."""
    ((count,),) = folder.sql(
        "SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0) - (SELECT count(*) FROM outbox)"
    )
    return int(count)


def _endpoint(folder: Folder) -> int:
    """A number that changes when a Milvus Lite begins to serve the folder."""
    try:
        return (folder.path / "vectors.endpoint.json").stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def _assert_expected(folder: Folder, expected: dict[str, State]) -> None:
    """The stores hold what was committed."""
    alive = dict(folder.sql("SELECT doc_id, business_tag FROM documents WHERE deleted_at IS NULL"))
    assert alive == {doc_id: tag for doc_id, (tag, _) in expected.items()}
    contents = folder.sql("SELECT doc_id, content FROM chunks ORDER BY doc_id, chunk_index")
    assert contents == [(doc_id, content) for doc_id in sorted(expected) for content in expected[doc_id][1]]
    with folder.milvus() as client:
        rows = client.query("rag_vectors", filter='chunk_id != ""', output_fields=["content", "vector"], limit=16_000)
    assert all(np.allclose(row["vector"], vector(row["content"]), atol=1e-6) for row in rows)
    objects = {key.split("/")[-1]: content for key, content in folder.objects().items() if "raw-files/" in key}
    assert objects == {f"{doc_id}.md": f"{doc_id} {words}".encode() for doc_id, (_, words) in expected.items()}
