"""A failover to a replica that lost commits: the relay removes no row unpublished, and forgets none."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from producer import Writer
from relays.ports import OutboxRow
from schema.kafka.names import Names
from tests.support import kafka, written
from tests.support.failover import Pair
from tests.support.pipeline import MODEL, document, set_namespace
from tests.support.servers import Servers
from tests.support.services import services, services_folder
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

DOCUMENTS = 8


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair.started(tmp_path / "servers") as started:
        yield started


def write(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        documents = [document(f"{name}-{number}", name) for number in range(DOCUMENTS)]
        Writer(MODEL).upsert_many(connection, documents)


def read_ids(engine: Engine) -> list[int]:
    return [outbox_id for (outbox_id,) in written.rows(engine, "SELECT id FROM outbox ORDER BY id")]


def waits_for_a_lock(engine: Engine) -> bool:
    waiting = "SELECT 1 FROM performance_schema.data_locks WHERE object_schema = DATABASE() AND lock_status = 'WAITING'"
    return bool(written.rows(engine, waiting))


def assert_published_once(servers: Servers, names: Names, *written_names: str) -> None:
    seen = Counter(one.doc_id for one in kafka.topic(servers, names.documents_topic))
    assert seen == Counter(f"{name}-{number}" for name in written_names for number in range(DOCUMENTS))


def test_relay_that_settled_everything_claims_reused_ids_at_once(pair: Pair, servers: Servers, names: Names) -> None:
    ids: list[int] = []

    def report(rows: Sequence[OutboxRow]) -> None:
        ids.extend(row.id for row in rows)

    with kafka.relaying(pair.engine, servers, names, report=report):
        write(pair.engine, "kept")
        kafka.wait_until_empty(pair.primary)
        pair.lose_commits()
        write(pair.engine, "lost")
        kafka.wait_until_empty(pair.primary)

        pair.promote()
        pair.switch()
        write(pair.engine, "new")
        kafka.wait_until_empty(pair.replica)
    assert ids[-DOCUMENTS:] == ids[DOCUMENTS:-DOCUMENTS], "the new rows have the ids of the lost ones"
    assert_published_once(servers, names, "kept", "lost", "new")


def test_failover_between_commit_and_settle_removes_no_new_row(pair: Pair, servers: Servers, names: Names) -> None:
    write(pair.engine, "kept")
    pair.lose_commits()
    write(pair.engine, "lost")
    with pair.primary.connect() as holder:
        ids = holder.execute(text("SELECT id FROM outbox ORDER BY id FOR UPDATE")).scalars().all()
        with kafka.relaying(pair.engine, servers, names):
            wait_for(lambda: waits_for_a_lock(pair.primary), "the settle to wait")
            pair.promote()
            write(pair.replica, "new")
            assert read_ids(pair.replica) == ids, "the new rows have the ids of the lost ones"
            pair.switch()
            kafka.wait_until_empty(pair.replica)
    assert_published_once(servers, names, "kept", "lost", "new")


def test_takeover_after_a_failover_removes_no_new_row(
    pair: Pair, servers: Servers, names: Names, tmp_path: Path
) -> None:
    set_namespace(pair.engine, names.namespace)
    folder = services_folder(
        tmp_path, pair.engine, servers, names.namespace, kafka_session_timeout_ms=str(kafka.SESSION_MILLISECONDS)
    )
    write(pair.engine, "kept")
    pair.lose_commits()
    write(pair.engine, "lost")
    with pair.primary.connect() as holder, services(folder) as some:
        ids = holder.execute(text("SELECT id FROM outbox ORDER BY id FOR UPDATE")).scalars().all()
        relay = some.relay()
        wait_for(lambda: waits_for_a_lock(pair.primary), "the settle to wait")
        relay.kill()
        pair.promote()
        write(pair.replica, "new")
        assert read_ids(pair.replica) == ids, "the new rows have the ids of the lost ones"
        pair.switch()
        some.relay()
        kafka.wait_until_empty(pair.replica)
        some.finish()
    assert_published_once(servers, names, "kept", "lost", "new")
