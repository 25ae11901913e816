"""`rag-outbox dead-letters` in the services profile, on MySQL, Kafka, Milvus and an S3 store."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import AdminClient
from sqlalchemy import text

from schema.events.events import MSGPACK, DocumentUpserted, encode
from tests.support import kafka, two_systems
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import services
from tests.support.two_systems import Shared
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

OPEN = "SELECT count(*) FROM outbox_dead_letters WHERE state = 'open'"
UNFINISHED = "SELECT count(*) FROM documents WHERE status <> 'completed'"


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[Shared]:
    names = servers.names()
    with (
        milvus_server.database() as database,
        minio_server.bucket() as bucket,
        two_systems.system(
            tmp_path / "system",
            servers,
            minio_server,
            milvus_uri=f"{milvus_server.uri}/{database}",
            object_store_bucket=bucket,
            namespace=names.namespace,
            kafka_bootstrap_servers=servers.kafka,
        ) as one,
    ):
        one.initialise()
        yield one


def spoil(system: Shared, *doc_ids: str) -> bytes:
    """Give the waiting events a label that Milvus refuses. Returns the last payload."""
    payload = b""
    for doc_id in doc_ids:
        with system.engine.begin() as connection:
            waiting = text("SELECT payload FROM outbox WHERE aggregate_id = :id")
            packed = connection.execute(waiting, {"id": doc_id}).scalar_one()
            event = msgspec.msgpack.decode(packed, type=DocumentUpserted)
            chunks = [msgspec.structs.replace(chunk, modal_type="m" * 17) for chunk in event.chunks]
            payload = encode(msgspec.structs.replace(event, chunks=chunks), MSGPACK)
            changed = text("UPDATE outbox SET payload = :payload WHERE aggregate_id = :id")
            connection.execute(changed, {"payload": payload, "id": doc_id})
    return payload


def test_refused_documents_are_listed_shown_replayed_and_discarded(
    system: Shared, servers: Servers, tmp_path: Path
) -> None:
    system.write(5, "one")
    payload = spoil(system, "d1", "d2", "d3")
    with services(system.folder) as running:
        running.relay()
        for sink in ("milvus", "minio"):
            running.consumer(sink)
        wait_for(lambda: system.holds(OPEN, (3,)), "the dead letters")
        letters = system.folder.succeed("dead-letters", "list", "--stage", "milvus")["dead_letters"]
        assert sorted((one["doc_id"], one["state"]) for one in letters) == [(f"d{n}", "open") for n in (1, 2, 3)]
        assert system.folder.succeed("dead-letters", "list", "--stage", "minio")["dead_letters"] == []
        assert system.folder.succeed("status")["dead_letters"] == 3
        numbers = {one["doc_id"]: str(one["id"]) for one in letters}
        first, second, third = (numbers[f"d{number}"] for number in (1, 2, 3))

        copied = tmp_path / "event"
        shown = system.folder.succeed("dead-letters", "show", third, "--payload", str(copied))
        topic = running.names.dead_letters_topic("milvus")
        position = shown["kafka_position"]
        assert position.startswith(f"{topic}/0/")
        assert shown["headers"]["ce_type"] == "rag.document.upserted.v1"
        assert shown["event"]["chunks"][0]["modal_type"] == "m" * 17
        assert copied.read_bytes() == payload

        replayed = system.folder.succeed("dead-letters", "replay", first, second)
        assert [(one["doc_id"], one["version"]) for one in replayed["replayed"]] == [("d1", 2), ("d2", 2)]
        discarded = system.folder.succeed("dead-letters", "discard", third, "--reason", "not wanted")
        assert [one["doc_id"] for one in discarded["discarded"]] == ["d3"]
        wait_for(lambda: system.holds(UNFINISHED, (1,)), "the replayed documents to be completed")
        assert system.folder.succeed("dead-letters", "list") == {"dead_letters": [], "next": None}
        events = kafka.topic(servers, running.names.documents_topic)
        assert len({one.event_id for one in events}) == len(events) == 7, "no event is published twice"

        admin = AdminClient({"bootstrap.servers": servers.kafka})
        admin.delete_topics([topic])[topic].result(30)
        wait_for(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic to be gone")
        lost = system.folder.succeed("dead-letters", "show", third)
        assert lost["event"] == {"unreadable": f"Kafka no longer has the payload at {position}"}
        failed = system.folder.run("dead-letters", "show", third, "--payload", str(copied), "--json")
        assert (failed.status, failed.facts) == (1, {"error": lost["event"]["unreadable"]})
    [(log,)] = system.rows("SELECT payload FROM operation_logs WHERE operation_type = 'DELETE'")
    assert json.loads(log)["reason"] == "not wanted"
