"""Two systems on the same servers: side by side with their own namespaces, told apart in topics, else refused."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import text

from operations.init import init
from operations.settings import Settings
from operations.wiring import open_system
from schema.collection import alias_of
from schema.object_store import marker
from schema.object_store.layout import SYSTEM_ID_KEY, bucket_of
from schema.object_store.s3 import S3Store
from schema.sinks import SINKS
from tests.support import kafka, two_systems
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.services import Services, services
from tests.support.two_systems import Shared
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

DOCUMENTS = 30
WORDS = ("one", "two")
UNFINISHED = "SELECT (SELECT COUNT(*) FROM outbox) + (SELECT COUNT(*) FROM documents WHERE status <> 'completed')"


@pytest.fixture
def milvus_database(milvus_server: MilvusServer) -> Iterator[str]:
    with milvus_server.database() as name:
        yield name


@pytest.fixture
def pair(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, milvus_database: str, minio_server: MinioServer
) -> Iterator[tuple[Shared, Shared]]:
    """Two systems without Kafka that have the same namespace, Milvus database and bucket; the first has its stores."""
    with ExitStack() as stack:
        bucket = stack.enter_context(minio_server.bucket())
        uri = f"{milvus_server.uri}/{milvus_database}"
        first, second = (
            stack.enter_context(
                two_systems.system(tmp_path / name, servers, minio_server, milvus_uri=uri, object_store_bucket=bucket)
            )
            for name in ("first", "second")
        )
        first.initialise()
        yield first, second


def run_side_by_side(tmp_path: Path, servers: Servers, minio: MinioServer, *settings: dict[str, str]) -> list[Services]:
    """Write the same ids with other texts to a system per `settings`, with a relay and two consumers each.

    Returns when all documents are completed and the processes have ended.
    """
    with ExitStack() as stack:
        systems = []
        for word, given in zip(WORDS, settings, strict=True):
            folder = {"kafka_bootstrap_servers": servers.kafka, **given}
            systems.append(stack.enter_context(two_systems.system(tmp_path / word, servers, minio, **folder)))
            systems[-1].initialise()
        running = [stack.enter_context(services(one.folder)) for one in systems]
        for some in running:
            some.relay()
            some.consumer("milvus")
            some.consumer("minio")
        for word, one in zip(WORDS, systems, strict=True):
            one.write(DOCUMENTS, word)
        for one in systems:
            wait_for(partial(one.holds, UNFINISHED, (0,)), "all documents to be completed")
        for some in running:
            some.finish()
        for one in systems:
            assert one.rows("SELECT COUNT(*) FROM documents WHERE status = 'completed'") == [(DOCUMENTS,)]
            assert (
                one.rows("SELECT * FROM documents WHERE lost_version > 0")
                == one.rows("SELECT * FROM outbox_dead_letters")
                == []
            )
        for some in running:
            for sink in SINKS:
                assert kafka.topic(servers, some.names.dead_letters_topic(sink)) == []
        return running


def assert_collection(milvus: MilvusServer, database: str, alias: str, word: str) -> None:
    with milvus.client(database) as client:
        found = client.query(alias, 'chunk_id != ""', ["content"], limit=16_000, consistency_level="Strong")
    assert {row["content"] for row in found} == {f"{word} {number}" for number in range(DOCUMENTS)}


def test_systems_with_their_own_namespaces_share_servers(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, milvus_database: str, minio_server: MinioServer
) -> None:
    """Only namespace and metadata database differ."""
    namespaces = [servers.names().namespace for _ in WORDS]
    with ExitStack() as stack:
        for namespace in namespaces:
            stack.enter_context(minio_server.bucket(bucket_of(namespace)))
        milvus_uri = f"{milvus_server.uri}/{milvus_database}"
        running = run_side_by_side(
            tmp_path, servers, minio_server, *({"namespace": one, "milvus_uri": milvus_uri} for one in namespaces)
        )
        for word, some in zip(WORDS, running, strict=True):
            assert_collection(milvus_server, milvus_database, alias_of(some.names.namespace), word)
            seen = kafka.topic(servers, some.names.documents_topic)
            assert {one.headers["ce_source"] for one in seen} == {some.names.source}
            assert not any("foreign_events" in process.log for process in some.processes)


def test_systems_with_one_namespace_skip_events_of_each_other(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> None:
    """They share all topics, and have their own Milvus databases and buckets."""
    namespace = servers.names().namespace
    with ExitStack() as stack:
        databases = [stack.enter_context(milvus_server.database()) for _ in WORDS]
        settings = [
            {
                "namespace": namespace,
                "milvus_uri": f"{milvus_server.uri}/{database}",
                "object_store_bucket": stack.enter_context(minio_server.bucket()),
            }
            for database in databases
        ]
        running = run_side_by_side(tmp_path, servers, minio_server, *settings)
        for word, database in zip(WORDS, databases, strict=True):
            assert_collection(milvus_server, database, alias_of(namespace), word)
    seen = kafka.topic(servers, running[0].names.documents_topic)
    assert Counter(one.headers["ce_source"] for one in seen) == {some.names.source: DOCUMENTS for some in running}
    for some in running:
        for process in some.processes[1:]:
            counted = [int(count) for count in re.findall("foreign_events count=([0-9]+) ", process.log)]
            assert 1 <= max(counted, default=0) <= DOCUMENTS, process.last_words()


@pytest.mark.parametrize("store", ["collection", "bucket"])
def test_init_of_another_system_on_a_store_is_refused(
    pair: tuple[Shared, Shared], milvus_server: MilvusServer, minio_server: MinioServer, store: str
) -> None:
    first, second = pair
    with ExitStack() as stack:
        free_bucket = stack.enter_context(minio_server.bucket())
        free_database = stack.enter_context(milvus_server.database())
        free = {
            "collection": {"object_store_bucket": free_bucket},
            "bucket": {"milvus_uri": f"{milvus_server.uri}/{free_database}"},
        }[store]
        given = "0b8ff0e8-4f2c-4c8e-9d5b-7a6c0f3f2f10"
        refused = second.at(**free).run("init", "--system-id", given)
        assert refused.status == 1
        assert refused.err.count("\n") == 1
        for part in (
            f"belongs to the system {first.system_id}: ",
            "RAG_OUTBOX_NAMESPACE",
            f"init --system-id {first.system_id}",
        ):
            assert part in refused.err
        assert given not in refused.err  # without --system-id it is another one at each attempt
        assert second.rows("SHOW TABLES") == [], "another id can still be given"
        with milvus_server.client(free_database) as client:
            assert client.list_collections() == []
        assert not minio_server.client().bucket_exists(free_bucket)

        adopted = second.folder.run("init", "--system-id", first.system_id)
        assert adopted.status == 0, "the same system with a new database"


@pytest.mark.parametrize("wrong", ["collection", "bucket"])
def test_init_on_the_wrong_store_marks_nothing_absent(
    pair: tuple[Shared, Shared], milvus_server: MilvusServer, minio_server: MinioServer, wrong: str
) -> None:
    """One store is of another system, the other one is missing: it is not created, and none of it counts as lost."""
    first, second = pair
    with ExitStack() as stack:
        databases = [stack.enter_context(milvus_server.database()) for _ in range(2)]
        buckets = [stack.enter_context(minio_server.bucket()) for _ in range(2)]
        right, missing = (
            {"milvus_uri": f"{milvus_server.uri}/{database}", "object_store_bucket": bucket}
            for database, bucket in zip(databases, buckets, strict=True)
        )
        assert second.at(**right).run("init").status == 0
        second.write(3, "two")
        assert second.at(**right).run("run", "--until-idle").status == 0
        setting = {"collection": "milvus_uri", "bucket": "object_store_bucket"}[wrong]
        refused = second.at(**missing | {setting: first.folder.settings[setting]}).run("init")
        assert refused.status == 1
        assert "belongs to the system" in refused.err
        assert second.rows("SELECT DISTINCT state FROM sink_states") == [("applied",)]
        assert not minio_server.client().bucket_exists(buckets[1])
        with milvus_server.client(databases[1]) as client:
            assert client.list_collections() == []


@pytest.mark.parametrize(
    "arguments", [("run", "--until-idle"), ("consume", "milvus"), ("consume", "minio"), ("search", "x")]
)
def test_process_on_the_store_of_another_system_stops(
    pair: tuple[Shared, Shared],
    servers: Servers,
    milvus_server: MilvusServer,
    minio_server: MinioServer,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    first, second = pair
    with milvus_server.database() as database, minio_server.bucket() as bucket:
        own = {"milvus_uri": f"{milvus_server.uri}/{database}", "object_store_bucket": bucket}
        model = {}
        if arguments[0] == "search":  # it embeds the text
            model = {"embedding_model": "wordllama-l2_supercat-256", "vector_dimension": "256"}
        assert second.at(**own, **model).run("init").status == 0
        if arguments[0] == "consume":
            model = {"profile": "services", "kafka_bootstrap_servers": servers.kafka, "namespace": "rag"}
        stopped = second.at(**model).run(*arguments)
    assert stopped.status == 1
    assert stopped.err.count("\n") == 1
    assert f"belongs to the system {first.system_id}: set another " in stopped.err


def test_search_names_the_missing_collection(
    pair: tuple[Shared, Shared], milvus_server: MilvusServer, minio_server: MinioServer
) -> None:
    _, second = pair
    with milvus_server.database() as database, minio_server.bucket() as bucket:
        there = {
            "milvus_uri": f"{milvus_server.uri}/{database}",
            "object_store_bucket": bucket,
            "embedding_model": "wordllama-l2_supercat-256",
            "vector_dimension": "256",
        }
        created = second.at(**there).run("init")
        assert created.out.startswith("Profile: embedded\nDatabase: mysql+pymysql://")
        assert f"Milvus: {there['milvus_uri']}, collection rag_vectors\n" in created.out
        assert f", bucket {bucket}\nModel: wordllama" in created.out
        with milvus_server.client(database) as client:
            client.drop_alias("rag_vectors")
        refused = second.at(**there).run("search", "x")
    missing = "there is no Milvus collection behind the alias rag_vectors: run rag-outbox init"
    assert (refused.status, refused.err) == (1, f"rag-outbox: {missing}\n")


def test_collection_that_init_did_not_create_is_refused(
    pair: tuple[Shared, Shared], milvus_server: MilvusServer, milvus_database: str
) -> None:
    first, _ = pair
    with milvus_server.client(milvus_database) as client:
        client.drop_alias("rag_vectors")
        client.create_collection("by_hand", dimension=8)
        client.create_alias("by_hand", "rag_vectors")
        for command in (["init"], ["reconcile"]):
            refused = first.folder.run(*command)
            assert refused.status == 1
            assert "the Milvus collection rag_vectors has no system id" in refused.err
        client.drop_alias("rag_vectors")


def test_bucket_without_system_id_is_taken_for_a_lost_one(
    pair: tuple[Shared, Shared], minio_server: MinioServer
) -> None:
    """An operator may create the bucket, before `init` or after a loss."""
    first, _ = pair
    first.write(3, "one")
    assert first.folder.run("run", "--until-idle").status == 0
    bucket = S3Store(minio_server.client(), first.folder.settings["object_store_bucket"])
    bucket.remove([SYSTEM_ID_KEY])
    stopped = first.folder.run("run", "--until-idle")
    assert stopped.status == 1
    assert "which names the system of the bucket: run rag-outbox init" in stopped.err

    made = first.folder.run("init")
    assert made.status == 0
    assert "minio: the store was missing; 3 documents wait for their refill" in made.err
    assert marker.read(bucket) == first.system_id
    assert first.folder.run("run", "--until-idle").status == 0
    assert first.rows("SELECT DISTINCT state FROM sink_states") == [("applied",)]


def test_clone_becomes_a_system_of_its_own(
    pair: tuple[Shared, Shared], milvus_server: MilvusServer, minio_server: MinioServer
) -> None:
    """The steps of docs/several-systems.md: a copied bucket without its marker, a new id, `init`."""
    first, _ = pair
    first.write(3, "one")
    assert first.folder.run("run", "--until-idle").status == 0
    original = S3Store(minio_server.client(), first.folder.settings["object_store_bucket"])
    with milvus_server.database() as database, minio_server.bucket() as name:
        copy = S3Store(minio_server.client(), name)
        copy.ensure()
        for key in original.keys(""):
            content = original.read(key)
            if key != SYSTEM_ID_KEY:
                digest = original.sha256(key)
                copy.put(key, BytesIO(content), size_bytes=len(content), content_type="text/plain", sha256=digest)
        with first.engine.begin() as connection:
            connection.execute(text("UPDATE system_identity SET system_id = UUID()"))
        clone = first.at(milvus_uri=f"{milvus_server.uri}/{database}", object_store_bucket=name)
        assert clone.run("init").status == 0
        assert clone.run("run", "--until-idle").status == 0
        assert marker.read(copy) == first.system_id != marker.read(original)
        assert first.rows("SELECT state, COUNT(*) FROM sink_states GROUP BY state") == [("applied", 6)]
        with milvus_server.client(database) as client:
            found = client.query("rag_vectors", 'chunk_id != ""', ["content"], consistency_level="Strong", limit=10)
        assert sorted(row["content"] for row in found) == ["one 0", "one 1", "one 2"]


def test_settings_of_a_namespace_name_its_collection_and_bucket(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, namespace="7-Blue_sea", embedding_model="m", vector_dimension=8)
    done = init(settings)
    with open_system(settings) as system:
        assert system.names.sink_group("milvus") == f"7-Blue_sea-{done.system_id}-milvus"
        assert marker.read(system.store) == done.system_id
        with system.milvus(own=True) as client:
            assert client.has_collection("_7_Blue_sea_vectors")
    assert (tmp_path / "objects" / "7-blue-sea-knowledge-base" / SYSTEM_ID_KEY).read_text() == f"{done.system_id}\n"
