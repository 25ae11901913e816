"""Thousands of documents through four writers, two relays and two consumers of each sink, all of them processes."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from schema.database.tables import LANES
from tests.chaos.conftest import System
from tests.support import kafka
from tests.support.commands import COMMAND
from tests.support.corpus import Share, Written
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

WRITERS = 4
KINDS = ("relay", "milvus", "minio")
LANES_OR_PARTITIONS = {"relay": LANES, "milvus": LANES, "minio": LANES}
SECONDS_AT_WORK = (1.0, 4.0)  # before a kill
KILLS = 9  # at least
HANDOVER_SECONDS = 90.0  # half of the session, whose end would hand over too
SEED = int(os.environ.get("RAG_OUTBOX_TEST_SEED") or random.randrange(2**32))


class Load:
    """What the writers write, and what the stores must hold at the end."""

    def __init__(self, system: System, documents: int) -> None:
        self._system = system
        self._shares = [Share(f"writer{number}", documents // WRITERS) for number in range(WRITERS)]
        self.living: dict[str, Written] = {}
        self.versions: dict[str, int] = {}
        for share in self._shares:
            self.living |= share.living
            self.versions |= share.versions

    @contextmanager
    def writing(self) -> Iterator[list[Future[None]]]:
        """Run all writers; the end of the context waits for their success."""
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [pool.submit(self._write, share) for share in self._shares]
            yield writers
            for writer in writers:
                writer.result()

    def _write(self, share: Share) -> None:
        """Write a file, delete documents, write another file."""
        folder = self._system.folder
        before, after = share.write_files(folder.path)
        subprocess.run([*COMMAND, "write", before], env=folder.environment(), cwd=folder.path, check=True)
        folder.succeed("delete", *share.deleted)
        folder.succeed("write", str(after))


def start_all(some: Services, **settings: str) -> None:
    """Start two processes of each kind and wait until each owns its share."""
    for _ in range(2):
        some.relay(**settings)
        some.consumer("milvus", **settings)
        some.consumer("minio", **settings)
    for process in some.processes:
        wait_until_owned(some, process, LANES_OR_PARTITIONS[process.does] // 2)


def wait_until_owned(
    some: Services, process: Process, share: int, *, timeout_seconds: float = HANDOVER_SECONDS
) -> None:
    wait_for(
        lambda: len(some.owned(process)) == share,
        f"{process.name} to own {share} lanes or partitions",
        timeout_seconds=timeout_seconds,
    )


def wait_until_in_step(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=180)


def test_processes_that_leave_under_load_repeat_and_lose_nothing(system: System) -> None:
    load = Load(system, 400)
    with services(system.folder) as some:
        start_all(some, kafka_session_timeout_ms=str(int(2_000 * HANDOVER_SECONDS)))
        began = time.monotonic()
        with load.writing(), ThreadPoolExecutor(len(KINDS)) as pool:
            list(pool.map(lambda kind: leave(system, some, kind), KINDS))
        written = time.monotonic()
        wait_until_in_step(system)
        ended = time.monotonic()
        done = some.finish()

    sys.stdout.write(
        f"{sum(load.versions.values()) / (ended - began):.0f} versions per second, "
        f"in step {ended - written:.1f} seconds after the last write\n"
    )
    system.stores.assert_holds(load.living, load.versions)
    published = kafka.topic(system.servers, some.names.documents_topic)
    kafka.assert_exactly_once_and_in_order(published, load.versions)
    assert done == dict.fromkeys(KINDS, len(published)), "every event was handled once"


def leave(system: System, some: Services, kind: str) -> None:
    """SIGTERM to one of two: it ends soon with success, and the other owns everything within half a session."""
    leaving, staying = (process for process in some.processes if process.does == kind)
    settled = system.stores.progress(kind)
    wait_for(lambda: system.stores.progress(kind) > settled, f"{kind} to be at work")
    seconds = leaving.terminate()
    began = time.monotonic()
    everything = LANES_OR_PARTITIONS[kind]
    wait_until_owned(some, staying, everything, timeout_seconds=HANDOVER_SECONDS)
    sys.stdout.write(
        f"{leaving.name} ended {seconds:.1f} seconds after SIGTERM, "
        f"{time.monotonic() - began:.1f} seconds later {staying.name} owned everything\n"
    )


def test_killed_processes_lose_none_of_2000_documents(system: System) -> None:
    sys.stdout.write(f"RAG_OUTBOX_TEST_SEED={SEED}\n")
    chance = random.Random(SEED)
    load = Load(system, 2_000)
    with services(system.folder) as some:
        start_all(some, kafka_session_timeout_ms="6000")
        kills = 0
        with load.writing() as writers:
            while kills < KILLS or not all(writer.done() for writer in writers):
                kill_one_at_work(some, KINDS[kills % len(KINDS)], chance)
                kills += 1
        began = time.monotonic()
        wait_until_in_step(system)
        sys.stdout.write(f"{kills} kills; in step {time.monotonic() - began:.1f} seconds after the last\n")
        some.finish()

    system.stores.assert_holds(load.living, load.versions)
    kafka.assert_exactly_once_and_in_order(kafka.topic(system.servers, some.names.documents_topic), load.versions)


def kill_one_at_work(some: Services, kind: str, chance: random.Random) -> None:
    """Kill one process of this kind at work and start another in its place."""
    running = [process for process in some.processes if process.does == kind and process.status is None]
    victim = chance.choice(wait_for(lambda: [one for one in running if some.owned(one)], f"a {kind} at work"))
    threading.Event().wait(chance.uniform(*SECONDS_AT_WORK))
    victim.kill()
    some.start(*victim.arguments, **victim.settings)
