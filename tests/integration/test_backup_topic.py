"""The position of the topic in a backup, and what a restore concludes from it, on a real Kafka."""

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, text

from operations import history
from operations.backup.settling.settle_sinks import settle_sinks
from operations.wiring import System
from producer import Writer
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.backups import make_backup, settings_of, system_of
from tests.support.pipeline import MODEL, document
from tests.support.servers import Servers
from tests.support.waiting import wait_for
from tests.support.written import rows

pytestmark = pytest.mark.integration


def states(engine: Engine) -> set[tuple[str, str]]:
    return set(rows(engine, "SELECT doc_id, state FROM sink_states"))


def test_restore_refills_only_lost_documents_while_the_topic_is_the_same(
    mysql: Engine, servers: Servers, names: Names, tmp_path: Path, mysql_client: Path
) -> None:
    given = settings_of(
        mysql, tmp_path / "data", mysql_client, kafka_bootstrap_servers=servers.kafka, namespace=names.namespace
    )
    with mysql.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document("kept", "one"), document("lost", "one")])
    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)
    wait_for(lambda: len(kafka.topic(servers, names.documents_topic)) == 2, "both events in the topic")
    with system_of(given, mysql) as system:
        made = make_backup(system)
    assert made.topic is not None
    assert set(made.topic.starts.values()) == {0}, "no sink has consumed anything yet"
    with mysql.begin() as connection:
        for table in ("chunks", "sink_states", "documents"):
            connection.execute(text(f"DELETE FROM {table} WHERE doc_id = 'lost'"))

    history.start(mysql, "restored")
    settled = settle_sinks(System(given, mysql), made)
    assert settled.everything_because == ""
    assert settled.report is not None
    assert settled.report.documents == {"lost"}
    assert states(mysql) == {("kept", "pending"), ("lost", "absent")}

    history.start(mysql, "restored again")
    before = msgspec.structs.replace(made, topic=msgspec.structs.replace(made.topic, topic_id="another"))
    settled = settle_sinks(System(given, mysql), before)
    assert settled.everything_because == f"the topic {names.documents_topic} was made again since the backup"
    assert states(mysql) == {("kept", "absent"), ("lost", "absent")}
    assert rows(mysql, "SELECT COUNT(*) FROM histories WHERE checked_at IS NULL") == [(0,)]
