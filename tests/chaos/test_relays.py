"""Relays as processes: one pauses or dies inside a transaction, and the other takes its lanes over."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
from sqlalchemy import Engine, text

from producer import Writer
from schema.database.tables import LANES
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.commands import Folder
from tests.support.pipeline import MODEL, document, set_namespace
from tests.support.servers import Servers
from tests.support.services import Process, Services, services, services_folder
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

PROMISED_SECONDS = 20  # in docs/failures.md: the session plus the time limit of an open transaction
LEAST_GRACE_SECONDS = 15
GRACE_PER_START = 5  # a slow machine gets this many times the seconds in which it starts two relays
TEXT_BYTES = 20_000  # per document, so that a batch takes a while
DOCUMENTS_PER_WRITE = 20
READ_SECONDS = 60  # a tenth of the time that the transaction of the killed relay stays open
PAUSE_SECONDS = 0.05  # between two writes
SLOW = {  # a relay that sends slowly, and whose open transaction outlives the test
    "kafka_queue_buffering_max_kbytes": "100",
    "kafka_transaction_timeout_ms": "120000",
}


@pytest.fixture
def folder(servers: Servers, mysql: Engine, names: Names, tmp_path: Path) -> Folder:
    """The settings and logs of the relays."""
    set_namespace(mysql, names.namespace)
    return services_folder(tmp_path, mysql, servers, names.namespace)


class Load:
    """Writes new versions of documents in some lanes."""

    def __init__(self, engine: Engine) -> None:
        self.written: dict[str, int] = {}  # the newest version per document
        self._engine = engine
        self._writer = Writer(MODEL)

    def write(self, lanes: set[int]) -> None:
        """Write a new version of some documents in these lanes."""
        doc_ids = self.documents_in(lanes)
        chosen = random.sample(doc_ids, min(len(doc_ids), DOCUMENTS_PER_WRITE))
        with self._engine.begin() as connection:
            documents = [document(doc_id, random.randbytes(TEXT_BYTES // 2).hex()) for doc_id in chosen]
            self._writer.upsert_many(connection, documents)
        for doc_id in chosen:
            self.written[doc_id] = self.written.get(doc_id, 0) + 1

    @staticmethod
    def documents_in(lanes: set[int]) -> list[str]:
        return [f"doc-{number}" for number in range(200) if crc32(b"doc-%d" % number) % LANES in lanes]

    @contextmanager
    def in_lanes(self, lanes: set[int]) -> Iterator[None]:
        """Write until the context ends."""
        stop = threading.Event()

        def write_until_stopped() -> None:
            while not stop.wait(PAUSE_SECONDS):
                self.write(lanes)

        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(write_until_stopped)
            try:
                yield
            finally:
                stop.set()
        outcome.result()


def pause_in_a_transaction(some: Services, relay: Process, load: Load, *, offsets: bool) -> None:
    """Pause the relay while its transaction is open, after or before it sent the lanes' offsets.

    Only the relay's own lanes get events, so no other relay has an open transaction.
    """

    def caught() -> bool:
        wait_for(some.in_transaction, "an open transaction")
        relay.pause()
        # Asked many times: a transaction that the broker is already committing ends soon.
        if all(some.in_transaction() for _ in range(20)) and some.offsets_in_transaction() == offsets:
            return True
        relay.go_on()
        return False

    with load.in_lanes(some.owned(relay)):
        wait_for(caught, f"{relay.name} inside a transaction")


def two_relays(some: Services, **settings: str) -> tuple[Process, Process]:
    """Start two relays; each owns half of the lanes."""
    relays = some.relay(**settings), some.relay(**settings)
    wait_for(lambda: [len(some.owned(relay)) for relay in relays] == [LANES // 2] * 2, "lanes to be shared")
    return relays


@pytest.mark.parametrize("offsets", [False, True], ids=["before its offsets", "after its offsets"])
def test_invariant_5_paused_relay_is_fenced_and_rejoins(
    offsets: bool, folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    load = Load(mysql)
    with services(folder) as some:
        paused, other = two_relays(some, kafka_session_timeout_ms="6000", **({} if offsets else SLOW))
        pause_in_a_transaction(some, paused, load, offsets=offsets)
        assert kafka.pending(mysql) > 0

        kafka.wait_until_empty(mysql)
        assert len(some.owned(other)) == LANES
        if offsets:  # the other waited for this transaction; only its own last one may still be ending
            wait_for(lambda: not some.in_transaction(), "no transaction to be open")
        else:
            assert some.in_transaction(), "the broker ends it only after its time limit"

        paused.go_on()
        wait_for(lambda: "batch_fenced" in paused.log, "the batch to be refused")
        wait_for(lambda: len(some.owned(paused)) == LANES // 2, "half of the lanes to come back")
        load.write(set(range(LANES)))
        kafka.wait_until_empty(mysql)
        published = some.finish()

    seen = kafka.topic(servers, names.documents_topic)
    kafka.assert_exactly_once_and_in_order(seen, load.written)
    assert published["relay"] == len(seen)


def test_killed_relay_delays_its_lanes_no_longer_than_promised(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    load = Load(mysql)
    with services(folder) as some:
        began = time.monotonic()
        killed, _ = two_relays(some)
        allowed = PROMISED_SECONDS + max(LEAST_GRACE_SECONDS, GRACE_PER_START * (time.monotonic() - began))
        pause_in_a_transaction(some, killed, load, offsets=True)
        assert kafka.pending(mysql) > 0

        killed.kill()
        began = time.monotonic()
        kafka.wait_until_empty(mysql, timeout_seconds=allowed)
        wait_for(lambda: not some.in_transaction(), "published events to be visible")
        seconds = time.monotonic() - began
        some.finish()

    seen = kafka.topic(servers, names.documents_topic)
    kafka.assert_exactly_once_and_in_order(seen, load.written)
    sys.stdout.write(f"all events were visible {seconds:.1f} seconds after the kill\n")
    assert seconds < allowed


def test_killed_relay_holds_up_its_own_lanes_only(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    load = Load(mysql)

    def readable_versions() -> dict[str, int]:
        return {
            one.doc_id: one.version for one in kafka.topic(servers, names.documents_topic) if one.partition in lanes
        }

    def write_and_read() -> None:
        load.write(lanes)
        written = {doc_id: load.written[doc_id] for doc_id in load.documents_in(lanes) if doc_id in load.written}
        began = time.monotonic()
        wait_for(lambda: readable_versions() == written, "the events of the other relay", timeout_seconds=READ_SECONDS)
        seconds.append(time.monotonic() - began)

    with services(folder) as some:
        killed, other = two_relays(some, kafka_session_timeout_ms="6000", kafka_transaction_timeout_ms="600000")
        pause_in_a_transaction(some, killed, load, offsets=True)
        lanes = some.owned(other)
        killed.kill()
        seconds: list[float] = []
        while len(some.owned(other)) < LANES:  # until the session of the killed relay ends
            write_and_read()
        for _ in range(5):  # now the other relay asks for the offsets in the open transaction
            write_and_read()
        assert some.offsets_in_transaction()
        sys.stdout.write(f"{len(seconds)} writes were readable after {max(seconds):.1f} seconds at most\n")


def test_invariant_4_lossless_with_relays_as_processes(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    """A transaction that commits after a higher outbox id is published; one that is rolled back is not."""
    late, lost = mysql.connect(), mysql.connect()
    late_transaction, lost_transaction = late.begin(), lost.begin()
    Writer(MODEL).upsert(late, document("late", "one"))
    Writer(MODEL).upsert(lost, document("lost", "one"))
    with services(folder) as some:
        two_relays(some)
        with mysql.begin() as connection:
            Writer(MODEL).upsert(connection, document("early", "one"))
        kafka.wait_until_empty(mysql)
        late_transaction.commit()
        lost_transaction.rollback()
        kafka.wait_until_empty(mysql)
        some.finish()
    late.close()
    lost.close()
    kafka.assert_exactly_once_and_in_order(kafka.topic(servers, names.documents_topic), {"early": 1, "late": 1})


def test_restored_database_loses_no_events_though_ids_are_reused(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    """The relay dies between commit and settle, so the committed offset names ids that other rows get later."""
    Load(mysql).write({0})
    with services(folder) as some, mysql.begin() as restoring:
        locked = text("SELECT id FROM outbox FOR UPDATE")  # keeps the relay from settling them
        ids = restoring.execute(locked).scalars().all()
        relay = some.relay()

        def all_published() -> set[str]:
            seen = {one.event_id for one in kafka.topic(servers, names.documents_topic)}
            return seen if len(seen) == len(ids) else set()

        before = wait_for(all_published, "the events to be published")
        relay.kill()
        for table in ("outbox", "operation_logs", "sink_states", "document_files", "chunks", "documents"):
            restoring.execute(text(f"DELETE FROM {table}"))  # the backup is older than all documents
    with mysql.begin() as connection:
        connection.execute(text(f"ALTER TABLE outbox AUTO_INCREMENT = {min(ids)}"))
    load = Load(mysql)
    load.write({0})
    with mysql.connect() as connection:
        assert connection.execute(text("SELECT id FROM outbox")).scalars().all() == ids

    with services(folder) as some:
        some.relay()
        kafka.wait_until_empty(mysql)
        some.finish()

    seen = kafka.topic(servers, names.documents_topic)
    assert len(seen) == 2 * len(ids)
    kafka.assert_exactly_once_and_in_order([one for one in seen if one.event_id not in before], load.written)
