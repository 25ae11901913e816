"""`rag-outbox run` and documents that are absent from a sink: how often it refills, and what it says of the rest."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from consumers.refill import Refill, mark_all_absent
from operations import settings, wiring
from operations.profiles import embedded
from schema.database.connection import connect
from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, vector
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance

PAUSE_SECONDS = 1  # after a round that finds nothing


@pytest.fixture
def small(tmp_path: Path) -> Folder:
    """A folder whose vectors are short."""
    folder = Folder(tmp_path / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")
    return folder


def write(folder: Folder, *doc_ids: str) -> None:
    chunks = [{"content": text, "vector": vector(text)} for text in ("one", "two")]
    lines = [{"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks} for doc_id in doc_ids]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


def lose_vectors(folder: Folder, *doc_ids: str) -> None:
    """Nothing in Milvus counts, and the archive of some documents is lost."""
    for doc_id in doc_ids:
        shutil.rmtree(folder.path / "objects/rag-knowledge-base/processed-data/embeddings" / doc_id)
    engine = connect(f"sqlite:///{folder.path / 'metadata.db'}")
    mark_all_absent(engine, "milvus", "lost")
    engine.dispose()


def test_run_until_idle_fails_and_names_what_is_left(small: Folder) -> None:
    write(small, "a", "b", "c")
    assert small.succeed("run", "--until-idle") == {"events": 3}
    lose_vectors(small, "a", "b")
    for _ in range(2):  # the second finds them postponed
        outcome = small.run("run", "--until-idle", "--json")
        assert outcome.status == 1
        left = outcome.facts["error"]
        assert left.startswith("not every sink holds its documents: milvus lacks 2, one is 'a': the object store lacks")
        assert left.endswith("write the document again")
    assert small.succeed("status")["documents"] == {"completed": 1, "pending": 2}

    write(small, "a", "b")
    assert small.succeed("run", "--until-idle") == {"events": 2}
    small.assert_in_step()


def test_run_until_idle_ignores_documents_refused_before(small: Folder) -> None:
    """It is a dead letter, which `status` shows; another run cannot bring it."""
    write(small, "a")
    small.succeed("run", "--until-idle")
    engine = connect(f"sqlite:///{small.path / 'metadata.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sink_states SET state = 'failed', applied_version = 0")
    engine.dispose()
    assert small.succeed("run", "--until-idle") == {"events": 0}


def test_idle_run_pauses_between_two_rounds_of_refill(small: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: dict[object, list[float]] = {}  # when each began
    run_round = Refill.run_round

    def note(refill: Refill, lanes: None) -> int:
        rounds.setdefault(refill, []).append(time.monotonic())
        return run_round(refill, lanes)

    monkeypatch.setattr(Refill, "run_round", note)
    monkeypatch.setattr(os, "environ", small.environment())
    stop = threading.Event()
    with wiring.open_system(settings.load()) as system, ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            lambda: embedded.run(
                system,
                stop,
                until_idle=False,
                patience_seconds=None,
                report=lambda _: None,
                failing=lambda _reason, _seconds: None,
            )
        )
        try:
            wait_for(lambda: len(rounds) == 2 and all(len(some) >= 3 for some in rounds.values()), "three rounds each")
        finally:
            stop.set()
        running.result()
    for some in rounds.values():
        assert all(later - earlier >= PAUSE_SECONDS for earlier, later in pairwise(some))


def test_label_change_is_applied_after_a_restart(small: Folder) -> None:
    """It reads rows that Milvus has; a Milvus Lite that has just started has loaded none."""
    write(small, "a", "b")
    small.succeed("run", "--until-idle")
    small.succeed("resync", "a")
    small.succeed("run", "--until-idle", "--give-up-seconds", "20")
    status = small.succeed("status")
    assert (status["documents"], status["pending_events"]) == ({"completed": 2}, 0)
