"""A collection or a bucket is dropped under its consumer: it stops, and no document is completed without its rows."""

import sys
import time

import pytest

from schema.object_store.s3 import S3Store
from tests.chaos.conftest import System
from tests.support.corpus import Written, first_version
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

DOCUMENTS = 30


def write(system: System, *names: str) -> dict[str, Written]:
    written = [first_version(name, 1) for name in names]
    lines = b"".join(one.line() for one in written)
    assert system.folder.run("write", "-", stdin=lines).status == 0
    return {one.doc_id: one for one in written}


def start(system: System, some: Services) -> dict[str, Written]:
    """A relay and two consumers, and documents that every store holds."""
    some.relay()
    for sink in ("milvus", "minio"):
        some.consumer(sink)
    living = write(system, *(f"doc-{number}" for number in range(DOCUMENTS)))
    wait_until_completed(system)
    return living


def wait_until_completed(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=120)


def completed(system: System) -> set[str]:
    return {doc_id for (doc_id,) in system.stores.sql("SELECT doc_id FROM documents WHERE status = 'completed'")}


def drop_collection(system: System) -> None:
    milvus, alias = system.stores.milvus, system.stores.alias
    name = milvus.describe_collection(alias)["collection_name"]
    milvus.drop_alias(alias)
    milvus.drop_collection(name)


def drop_bucket(system: System) -> None:
    minio, bucket = system.stores.minio, system.stores.bucket
    S3Store(minio, bucket).remove(system.stores.objects())
    minio.remove_bucket(bucket)


def assert_stops(process: Process, reason: str) -> None:
    wait_for(lambda: process.status is not None, f"{process.name} to stop")
    assert process.status == 1
    log = process.log.replace("s3://", "")  # a check of the store names it with its kind, a write without
    assert log.endswith(f"rag-outbox: {reason}: run rag-outbox init\n")


def test_dropped_collection_is_refilled_without_a_write(system: System) -> None:
    with services(system.folder) as some:
        living = start(system, some)
        drop_collection(system)
        living |= write(system, "after")
        [consumer] = [one for one in some.processes if one.does == "milvus"]
        assert_stops(consumer, f"there is no Milvus collection {system.stores.alias}_1")
        assert "after" not in completed(system)
        again = some.consumer("milvus")
        assert_stops(again, f"there is no Milvus collection {system.stores.alias}_1")

        assert system.folder.run("init").status == 0
        assert completed(system) == set()
        began = time.monotonic()
        some.consumer("milvus")

        def is_whole() -> bool:
            marked = completed(system)  # before the rows: marks only follow rows
            assert marked <= {row["doc_id"] for row in system.stores.rows().values()}
            return marked == living.keys()

        wait_for(is_whole, "every document to come back", timeout_seconds=120)
        seconds = time.monotonic() - began
        sys.stdout.write(f"{len(living)} documents were back {seconds:.1f} seconds after the start of their consumer\n")
        assert [one.status for one in some.processes if one not in (consumer, again)] == [None] * 3
        for process in some.processes:
            if process.status is None:
                process.terminate()
    system.stores.assert_holds(living, dict.fromkeys(living, 1))


def test_dropped_bucket_stops_its_consumer_and_asks_for_files(system: System) -> None:
    """Nothing else has the files and the archive, so the documents wait for their next write."""
    with services(system.folder) as some:
        living = start(system, some)
        drop_bucket(system)
        living |= write(system, "after")
        [consumer] = [one for one in some.processes if one.does == "minio"]
        assert_stops(consumer, f"there is no bucket or folder {system.stores.bucket} in the object store")
        assert "after" not in completed(system)

        assert system.folder.run("init").status == 0
        assert completed(system) == set()
        some.consumer("minio")
        lacking = "sink_states WHERE sink = 'minio' AND last_error LIKE '%write the document again'"
        wait_for(lambda: system.stores.count(lacking) == DOCUMENTS, "every lost file to be reported")
        assert not completed(system) & (living.keys() - {"after"})
        write(system, *(living.keys() - {"after"}))
        wait_until_completed(system)
    system.stores.assert_holds(living, dict.fromkeys(living, 2) | {"after": 1})
