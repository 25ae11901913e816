"""`rag-outbox init --lanes`: the number of lanes is that of the partitions, and stays."""

from pathlib import Path
from zlib import crc32

import pytest
from sqlalchemy import Engine, make_url

from producer import Writer
from schema.kafka.names import Names
from tests.support import kafka
from tests.support.commands import Folder
from tests.support.pipeline import MODEL, SYSTEM_ID, document, set_namespace
from tests.support.servers import Servers, empty_database
from tests.support.services import services, services_folder

pytestmark = pytest.mark.integration


def test_init_makes_as_many_partitions_as_lanes(servers: Servers, tmp_path: Path) -> None:
    with empty_database(make_url(servers.mysql_url)) as engine:
        folder = services_folder(
            tmp_path,
            engine,
            servers,
            servers.names().namespace,
            milvus_uri=f"file://{tmp_path}/vectors.db",
            object_store=f"file://{tmp_path}/objects",
        )
        assert folder.run("init", "--lanes", "5").status == 0
        for arguments in ((), ("--lanes", "5")):
            assert folder.run("init", *arguments).status == 0, "it may be repeated"
        refused = folder.run("init", "--lanes", "6")
        assert refused.status == 1
        assert "the system has 5 lanes, not 6" in refused.err

        doc_ids = [f"d{number}" for number in range(20)]
        with engine.begin() as connection:
            Writer(MODEL).upsert_many(connection, [document(doc_id, "one") for doc_id in doc_ids])
        with services(folder) as some:
            some.relay()
            kafka.wait_until_empty(engine)
            some.finish()
    seen = kafka.topic(servers, Names(folder.settings["namespace"], SYSTEM_ID).documents_topic)
    assert {one.doc_id: one.partition for one in seen} == {doc_id: crc32(doc_id.encode()) % 5 for doc_id in doc_ids}


def test_init_refuses_topics_with_another_number_of_partitions(servers: Servers, tmp_path: Path) -> None:
    names = servers.names()
    kafka.create_topics(servers, names)
    folder = Folder(
        tmp_path,
        database_url=f"sqlite:///{tmp_path}/metadata.db",
        kafka_bootstrap_servers=servers.kafka,
        milvus_uri=f"file://{tmp_path}/vectors.db",
        object_store=f"file://{tmp_path}/objects",
        namespace=names.namespace,
    )
    refused = folder.run("init", "--lanes", "5")
    assert refused.status == 1
    assert f"topic {names.documents_topic} has 16 partitions, and must have 5" in refused.err


def test_relay_without_its_topics_ends_with_the_reason(servers: Servers, mysql: Engine, tmp_path: Path) -> None:
    names = servers.names()
    set_namespace(mysql, names.namespace)
    folder = services_folder(tmp_path, mysql, servers, names.namespace)
    ended = folder.run("relay", "--json")
    assert ended.status == 1
    reason = f"there is no topic {names.documents_topic}: run rag-outbox init"
    assert ended.facts == {"error": reason}


@pytest.mark.parametrize("lanes", ["0", "257", "many"])
def test_number_of_lanes_is_bounded(lanes: str, tmp_path: Path) -> None:
    assert Folder(tmp_path).run("init", "--lanes", lanes).status == 2


def test_embedded_system_stores_its_lanes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.run("init", "--lanes", "5").status == 0
    assert folder.sql("SELECT lanes FROM system_identity") == [(5,)]
