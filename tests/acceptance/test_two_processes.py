"""Concurrent commands on one data folder succeed, or name the process that holds it; they corrupt nothing."""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from operations import wiring
from operations.reconcile.reconcile import reconcile
from operations.settings import Settings
from tests.acceptance.conftest import Here
from tests.support.commands import Folder, Outcome, Running, children
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


def lines(prefix: str, numbers: range, words: str = "Words") -> bytes:
    documents = (
        {
            "doc_id": f"{prefix}-{number}",
            "title": f"{prefix} {number}",
            "source_type": "text",
            "business_tag": prefix,
            "chunks": [{"content": f"{words} of {prefix}, chunk {part} of number {number}."} for part in range(3)],
        }
        for number in numbers
    )
    return "\n".join(map(json.dumps, documents)).encode()


def completed(folder: Folder) -> int:
    ((count,),) = folder.sql("SELECT count(*) FROM documents WHERE status = 'completed'")
    return int(count)


@contextmanager
def running(folder: Folder) -> Iterator[Running]:
    """`rag-outbox run`, ready. SIGTERM ends it with status 0, unless the test killed it."""
    with folder.start("run") as run:
        wait_for((folder.path / "vectors.endpoint.json").exists, "run to be ready")
        yield run
        run.terminate()
        assert run.ended().status in (0, -signal.SIGKILL)


def at_once(*calls: tuple[Folder, tuple[str, ...], bytes]) -> list[Outcome]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call[0].run(*call[1], stdin=call[2]), calls))


@pytest.fixture(scope="module")
def cats(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with one document that every store holds."""
    folder = Folder.copied(prepared, tmp_path_factory.mktemp("cats") / "data")
    folder.succeed("write", "-", stdin=lines("cats", range(1)))
    folder.succeed("run", "--until-idle")
    return folder


@pytest.fixture
def folder(cats: Folder, tmp_path: Path) -> Folder:
    return Folder.copied(cats, tmp_path / "data")


@pytest.fixture(scope="module")
def busy(cats: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, int]]:
    """A copy of `cats` with a `rag-outbox run` at work, and the id of that process."""
    folder = Folder.copied(cats, tmp_path_factory.mktemp("busy") / "data")
    with running(folder) as run:
        yield folder, run.pid


def test_second_run_names_the_process_that_holds_the_folder(busy: tuple[Folder, int]) -> None:
    folder, pid = busy

    outcome = folder.run("run", "--until-idle")

    assert (outcome.status, outcome.out) == (1, "")
    said = f"rag-outbox: rag-outbox run holds {folder.path} since [-0-9]{{10}} [:0-9]{{8}} UTC \\(process {pid}\\)\n"
    assert re.fullmatch(said, outcome.err)


def test_searches_and_init_work_during_a_run(busy: tuple[Folder, int]) -> None:
    folder, _ = busy

    search = (folder, ("search", "cats", "--limit", "1", "--json"), b"")
    first, second, init = at_once(search, search, (folder, ("init", "--json"), b""))

    assert [hit["doc_id"] for hit in first.facts["hits"]] == ["cats-0"]
    assert second.facts == first.facts
    assert (init.status, init.err) == (0, "")


def test_two_concurrent_searches_succeed(folder: Folder) -> None:
    search = (folder, ("search", "cats", "--limit", "1", "--json"), b"")
    for outcome in at_once(search, search):
        assert (outcome.status, outcome.err) == (0, "")
        assert [hit["doc_id"] for hit in outcome.facts["hits"]] == ["cats-0"]


def test_two_concurrent_inits_succeed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")

    outcomes = at_once(*[(folder, ("init", "--json"), b"")] * 2)

    assert [(outcome.status, outcome.err) for outcome in outcomes] == [(0, "")] * 2
    assert folder.sql("SELECT count(*) FROM system_identity") == [(1,)]
    folder.assert_in_step()


def test_run_with_many_writers_loses_nothing(folder: Folder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(60):
            (tmp_path / name / f"{number}.md").write_text(f"# File {number}\n\nWhat stands in {name}.")

    with running(folder):
        outcomes = at_once(
            (folder, ("write", "-"), lines("first", range(200))),
            (folder, ("write", "-"), lines("both", range(100))),
            (folder, ("write", "-"), lines("both", range(100), words="Other words")),
            (folder, ("ingest", "a", "--business-tag", "a"), b""),
            (folder, ("ingest", "a", "b", "--business-tag", "b"), b""),
        )
        assert [(outcome.status, outcome.err) for outcome in outcomes] == [(0, "")] * 5
        wait_for(lambda: folder.sql("SELECT count(*) FROM outbox") == [(0,)], "every event to be applied")

    assert folder.sql("SELECT count(*) FROM documents WHERE business_tag = 'first'") == [(200,)]
    assert folder.sql("SELECT count(*), sum(version) FROM documents WHERE business_tag = 'both'") == [(100, 200)]
    assert folder.sql("SELECT count(*) FROM documents WHERE business_tag IN ('a', 'b')") == [(120,)]
    folder.assert_in_step()
    settings = Settings.model_construct(data_dir=folder.path)
    with wiring.open_system(settings) as system:
        report = reconcile(system)
    assert (report.is_healthy, report.findings.waiting) == (True, {}), report.to_facts()


def test_search_survives_the_death_of_its_milvus_lite(folder: Folder) -> None:
    with running(folder) as run:
        (milvus_lite,) = children(run.pid)
        os.kill(milvus_lite, signal.SIGSTOP)
        with folder.start("search", "cats", "--json") as search:
            wait_for(lambda: _is_connected(search.pid, folder), "the search to connect")
            os.kill(milvus_lite, signal.SIGKILL)
            run.kill()
            searched = search.ended()

    assert (searched.status, searched.err) == (0, "")
    assert searched.facts["hits"][0]["doc_id"] == "cats-0"
    folder.assert_in_step()


def test_run_waits_for_a_search_that_holds_milvus_lite(folder: Folder, here: Here) -> None:
    here(folder, "write", "-", stdin=lines("dogs", range(1)))

    with folder.start("search", "cats", "--json") as search:
        wait_for((folder.path / "vectors.endpoint.json").exists, "the search to start Milvus Lite")
        os.kill(search.pid, signal.SIGSTOP)  # Milvus Lite runs until the search ends
        with folder.start("run", "--until-idle", "--json") as run:
            wait_for(lambda: children(run.pid), "run to try")
            wait_for(lambda: not children(run.pid), "run to be refused")
            os.kill(search.pid, signal.SIGCONT)
            searched = search.ended()
            ran = run.ended()

    assert [hit["doc_id"] for hit in searched.facts["hits"]] == ["cats-0"] * 3
    assert (ran.facts, ran.err) == ({"events": 1}, "")
    folder.assert_in_step()


def test_run_restarts_a_dead_milvus_lite(folder: Folder, here: Here) -> None:
    here(folder, "write", "-", stdin=lines("before", range(50)))

    with running(folder) as run:
        wait_for(lambda: completed(folder) == 51, "the first documents to be applied")
        (milvus_lite,) = children(run.pid)
        os.kill(milvus_lite, signal.SIGKILL)
        here(folder, "write", "-", stdin=lines("after", range(50)))
        wait_for(lambda: completed(folder) == 101, "the other documents to be applied")

    folder.assert_in_step()


def _is_connected(pid: int, folder: Folder) -> bool:
    """Whether a process has a TCP connection to the Milvus Lite that serves the folder."""
    uri = json.loads((folder.path / "vectors.endpoint.json").read_text())["uri"]
    remote = f":{int(uri.rpartition(':')[2]):04X} 01 "
    rows = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    sockets = {f"socket:[{row.split()[9]}]" for row in rows[1:] if remote in row}
    found = []
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(handle))
        except FileNotFoundError:
            continue
    return not sockets.isdisjoint(found)
