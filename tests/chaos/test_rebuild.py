"""Milvus is rebuilt under writes and searches, and the command is killed twice on its way."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, cycle

import pytest
from pymilvus import MilvusClient

from producer import Chunk, Document, Writer
from retrieval.search import search
from schema.object_store.s3 import S3Store
from tests.chaos.conftest import System
from tests.support.corpus import Written, first_version, vector
from tests.support.services import Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

DOCUMENTS = 150
WRITTEN = 40  # of other documents, again and again while the rebuild runs
_PAUSE_SECONDS = 0.2  # between two calls: writes and searches leave the processes some of the CPU
INDEX = ("--index", "IVF_FLAT", "--index-parameters", "nlist=64")


class Repeated:
    """Calls `work` in a thread until the context ends, which raises its error. `times` counts the calls."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def calling(self, work: Callable[[], None]) -> Iterator["Repeated"]:
        stop, errors = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                while not stop.wait(_PAUSE_SECONDS):
                    work()
                    self.times += 1
            except BaseException as error:  # noqa: BLE001  # raised below
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
        if errors:
            raise errors[0]


def writes(system: System, sent: dict[str, int]) -> Callable[[], None]:
    """A function that writes one of a few documents again, each time with another text."""
    writer, numbers = Writer("test-model"), count()

    def write() -> None:
        number = next(numbers)
        doc_id = f"busy-{number % WRITTEN}"
        contents = [f"Text {number} of {doc_id}", f"The end of {doc_id}"]
        chunks = [Chunk(content=content, vector=vector(content)) for content in contents]
        with system.stores.engine.begin() as connection:
            writer.upsert(connection, Document(doc_id=doc_id, title=doc_id, source_type="text", chunks=chunks))
        sent[doc_id] = sent.get(doc_id, 0) + 1

    return write


def searches(system: System, living: dict[str, Written], client: MilvusClient) -> Callable[[], None]:
    """A function that searches a chunk of a document that nobody writes: it must be the first hit."""
    chunks = cycle((doc_id, content) for doc_id, one in sorted(living.items()) for content in one.contents[:2])
    stores = system.stores
    store = S3Store(stores.minio, stores.bucket)

    def find() -> None:
        doc_id, content = next(chunks)
        hits = search(stores.engine, store, lambda work: work(client), vector(content), limit=3, alias=stores.alias)
        assert hits, "the search found nothing"
        assert (hits[0].doc_id, hits[0].content) == (doc_id, content)
        assert len(hits) == 3

    return find


def sinks(system: System) -> dict[str, tuple[int, str]]:
    return {
        name: (bool(required), state)
        for name, required, state in system.stores.sql("SELECT name, required, state FROM sinks")
    }


def target(system: System) -> str:
    return str(system.stores.milvus.describe_collection(system.stores.alias)["collection_name"])


def newest_report(system: System) -> list[str]:
    """The sinks that the newest run of reconcile has compared."""
    rows = system.stores.sql("SELECT report FROM reconcile_reports WHERE ended_at IS NOT NULL ORDER BY id DESC LIMIT 1")
    return list(json.loads(rows[0][0])["sinks"]) if rows else []


def wait_until_completed(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=180)


def rebuild_killed_twice(system: System, some: Services) -> None:
    first = some.start("rebuild", "milvus", *INDEX)
    joined = "sink_states WHERE sink = 'milvus-2' AND state = 'applied'"
    wait_for(lambda: system.stores.count(joined) > 0 or first.status is not None, "the first refill")
    first.kill()
    assert sinks(system)["milvus-2"] == (False, "joining")

    second = some.start("rebuild", "milvus")
    wait_for(
        lambda: sinks(system)["milvus-2"][0] or second.status is not None, "the roles to swap", timeout_seconds=180
    )
    if second.status is None:
        second.kill()
    third = system.folder.run("rebuild", "milvus", "--json")
    if third.status:  # the second had moved the alias before it was killed
        assert "milvus-2 serves, and milvus still exists" in third.err


def assert_refused_index_leaves_nothing(system: System) -> None:
    wrong = ("--index", "HNSW", "--index-parameters", "M=99999")
    refused = system.folder.run("rebuild", "milvus", *wrong)
    assert refused.status == 1
    assert refused.err.endswith("rag-outbox: Milvus refuses the index HNSW: M out of range: [1, 2048]\n")
    assert sinks(system) == {"milvus": (True, "active"), "minio": (True, "active")}
    assert system.stores.milvus.list_collections() == [f"{system.stores.alias}_1"]


def test_rebuild_under_load_survives_kills_and_can_be_undone(system: System) -> None:
    living = {one.doc_id: one for one in (first_version(f"doc-{number}", 1) for number in range(DOCUMENTS))}
    alias, sent = system.stores.alias, dict[str, int]()
    with services(system.folder) as some:
        some.relay()
        for sink in ("milvus", "milvus", "minio"):
            some.consumer(sink)
        lines = b"".join(one.line() for one in living.values())
        assert system.folder.run("write", "-", stdin=lines).status == 0
        wait_until_completed(system)
        consumers = list(some.processes)
        every = some.start("reconcile", "--every", "2")
        wait_for(lambda: newest_report(system) == ["milvus", "minio"], "a run")
        assert_refused_index_leaves_nothing(system)
        client, search_count = system.stores.milvus, Repeated()
        with search_count.calling(searches(system, living, client)), Repeated().calling(writes(system, sent)):
            rebuild_killed_twice(system, some)
            assert sinks(system)["milvus-2"] == (True, "active")
            assert sinks(system)["milvus"] == (False, "active")
            assert target(system) == f"{alias}_2"
            again = system.folder.run("rebuild", "milvus")
            assert (again.status, "milvus still exists" in again.err) == (1, True), again
            for serving, number in (("milvus", 1), ("milvus-2", 2)):  # back, and forward again
                facts = system.folder.succeed("rebuild", "milvus", "--rollback")
                assert (facts["serving"], target(system)) == (serving, f"{alias}_{number}")
            searched = search_count.times
            wait_for(lambda: search_count.times > searched + 20, "more searches")
        wait_until_completed(system)
        report = system.folder.succeed("reconcile", "--full", "--vectors")
        assert (report["differences"], report["sinks"]) == (0, ["milvus-2", "minio"])
        old = system.folder.succeed("reconcile", "--full", "--sink", "milvus")
        assert old["differences"] == 0, "the old instance is current"
        assert system.folder.run("sinks", "remove", "milvus").status == 2, "nobody can be asked"
        wait_for(lambda: newest_report(system) == ["milvus-2", "minio"], "a run on the new instance")
        system.stores.milvus.alter_alias(f"{alias}_1", alias)  # as if the rebuild had been killed before it moved it
        removed = system.folder.succeed("sinks", "remove", "milvus", "--yes")
        assert target(system) == f"{alias}_2", "a search finds a collection"
        assert (removed["documents"], removed["dropped"]) == (DOCUMENTS + len(sent), True)
        assert sinks(system) == {"milvus-2": (True, "active"), "minio": (True, "active")}
        assert system.stores.milvus.list_collections() == [f"{alias}_2"]
        assert [one.status for one in consumers] == [None] * 4
        assert "reconcile_failed" not in every.log
        assert sum(sent.values()) > WRITTEN
        writes(system, sent)()
        wait_until_completed(system)
    assert system.folder.succeed("reconcile", "--full")["differences"] == 0


def test_rebuild_gives_up_while_too_many_events_wait(system: System) -> None:
    lines = b"".join(first_version(f"doc-{number}", 1).line() for number in range(501))
    assert system.folder.run("write", "-", stdin=lines).status == 0  # no relay runs
    stalled = system.folder.run("rebuild", "milvus", "--give-up-seconds", "1")
    assert stalled.status == 1
    assert "milvus-2 holds 0 of 501 documents; no process serves it" in stalled.err
    assert sinks(system)["milvus-2"] == (False, "joining")
