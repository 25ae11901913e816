"""Relays as processes: one that stands still or dies inside a transaction, another that takes over."""

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
from tests.support.pipeline import DIMENSION, MODEL, document
from tests.support.servers import Servers
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

PROMISED_SECONDS = 20  # in the README: a session, and a transaction that is left open
SLOW_MACHINE_SECONDS = 15
TEXT_BYTES = 20_000  # of a document: so a batch takes a while
DOCUMENTS_A_WRITE = 20
PAUSE_SECONDS = 0.05  # between two
SLOW = {  # a relay that takes its time to send events, and may leave its transaction open for longer than a test
    "kafka_queue_buffering_max_kbytes": "100",
    "kafka_transaction_timeout_ms": "120000",
}


@pytest.fixture
def folder(servers: Servers, mysql: Engine, names: Names, tmp_path: Path) -> Folder:
    """The settings of the relays; their logs are kept here."""
    return Folder(
        tmp_path,
        database_url=mysql.url.render_as_string(hide_password=False),
        kafka_bootstrap_servers=servers.kafka,
        namespace=names.namespace,
        embedding_model=MODEL,
        vector_dimension=str(DIMENSION),
    )


class Load:
    """Documents of some lanes, written again and again until there is enough."""

    def __init__(self, engine: Engine) -> None:
        self.written: dict[str, int] = {}  # the newest version, by document
        self._engine = engine
        self._writer = Writer(MODEL)

    def write(self, lanes: set[int]) -> None:
        """A new version of some documents in these lanes."""
        doc_ids = [f"doc-{number}" for number in range(200) if crc32(b"doc-%d" % number) % LANES in lanes]
        chosen = random.sample(doc_ids, min(len(doc_ids), DOCUMENTS_A_WRITE))
        with self._engine.begin() as connection:
            documents = [document(doc_id, random.randbytes(TEXT_BYTES // 2).hex()) for doc_id in chosen]
            self._writer.upsert_many(connection, documents)
        for doc_id in chosen:
            self.written[doc_id] = self.written.get(doc_id, 0) + 1

    @contextmanager
    def in_lanes(self, lanes: set[int]) -> Iterator[None]:
        """Writes them as long as the context lasts."""
        enough = threading.Event()

        def write_on() -> None:
            while not enough.wait(PAUSE_SECONDS):
                self.write(lanes)

        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(write_on)
            try:
                yield
            finally:
                enough.set()
        outcome.result()


def pause_in_a_transaction(some: Services, relay: Process, load: Load, *, offsets: bool) -> None:
    """Stop the relay while a transaction of its own is open that holds, or does not hold yet, the lanes' offsets.

    Only the relay's own lanes get events, so an open transaction is its own.
    """

    def caught() -> bool:
        wait_for(some.in_transaction, "an open transaction")
        relay.pause()
        # Asked often enough for one to end that the broker is committing already.
        if all(some.in_transaction() for _ in range(20)) and some.offsets_in_transaction() == offsets:
            return True
        relay.go_on()
        return False

    with load.in_lanes(some.owned(relay)):
        wait_for(caught, f"{relay.name} inside a transaction")


def two_relays(some: Services, **settings: str) -> tuple[Process, Process]:
    """Each owns half of the lanes."""
    relays = some.relay(**settings), some.relay(**settings)
    wait_for(lambda: [len(some.owned(relay)) for relay in relays] == [LANES // 2] * 2, "lanes to be shared")
    return relays


@pytest.mark.parametrize("offsets", [False, True], ids=["before its offsets", "after its offsets"])
def test_invariant_5_a_relay_that_stood_still_in_a_transaction_publishes_nothing_more_and_comes_back(
    offsets: bool, folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    load = Load(mysql)
    with services(folder) as some:
        paused, other = two_relays(some, kafka_session_timeout_ms="6000", **({} if offsets else SLOW))
        pause_in_a_transaction(some, paused, load, offsets=offsets)
        assert kafka.pending(mysql) > 0

        kafka.wait_until_empty(mysql)
        assert len(some.owned(other)) == LANES
        if offsets:  # the other waited for its end; the markers of what it published since may still be on their way
            wait_for(lambda: not some.in_transaction(), "no transaction to be open")
        else:
            assert some.in_transaction(), "the broker ends it only when its time is over"

        paused.go_on()
        wait_for(lambda: "batch_fenced" in paused.log, "the batch to be refused")
        wait_for(lambda: len(some.owned(paused)) == LANES // 2, "half of the lanes to come back")
        load.write(set(range(LANES)))
        kafka.wait_until_empty(mysql)
        published = some.finish()

    seen = kafka.topic(servers, names.documents_topic)
    kafka.assert_exactly_once_and_in_order(seen, load.written)
    assert published["relay"] == len(seen)


def test_a_relay_killed_in_a_transaction_holds_its_lanes_up_no_longer_than_promised(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    load = Load(mysql)
    with services(folder) as some:
        killed, _ = two_relays(some)
        pause_in_a_transaction(some, killed, load, offsets=True)
        assert kafka.pending(mysql) > 0

        killed.kill()
        began = time.monotonic()
        kafka.wait_until_empty(mysql, timeout_seconds=PROMISED_SECONDS + SLOW_MACHINE_SECONDS)
        wait_for(lambda: not some.in_transaction(), "what is published to be visible")
        seconds = time.monotonic() - began
        some.finish()

    seen = kafka.topic(servers, names.documents_topic)
    kafka.assert_exactly_once_and_in_order(seen, load.written)
    sys.stdout.write(f"all events were visible {seconds:.1f} seconds after the kill\n")
    assert seconds < PROMISED_SECONDS + SLOW_MACHINE_SECONDS


def test_invariant_4_lossless_with_relays_as_processes(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    """A transaction that commits after one with a higher outbox id is published, one that is rolled back is not."""
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


def test_a_database_restored_from_an_older_backup_loses_nothing_though_ids_are_used_again(
    folder: Folder, servers: Servers, mysql: Engine, names: Names
) -> None:
    """The relay dies between publishing and settling, so Kafka's last offset names ids of other rows."""
    Load(mysql).write({0})
    with services(folder) as some, mysql.begin() as restoring:
        locked = text("SELECT id FROM outbox FOR UPDATE")  # so the relay cannot settle them
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
