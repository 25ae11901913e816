"""MySQL goes silent for one of two processes: no answer, and no reset. The other one takes its work over."""

import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest
from sqlalchemy import make_url

from schema.database.tables import LANES
from schema.threads import STOP_SECONDS
from tests.chaos.conftest import System
from tests.support import kafka, prometheus
from tests.support.corpus import Share
from tests.support.forwarder import Forwarder
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(500)]

TIMEOUT_SECONDS = 2.0
LEAVE_AFTER_SECONDS = 5.0
REBALANCE_SECONDS = 10.0
GRACE_SECONDS = 20.0  # for a slow machine
START_SECONDS = 180.0  # on a busy machine
SETTINGS = {
    "database_timeout_seconds": str(TIMEOUT_SECONDS),
    "leave_after_seconds": str(LEAVE_AFTER_SECONDS),
    "kafka_session_timeout_ms": "45000",  # so that only a member that leaves hands over in time
}


@pytest.fixture
def forwarder(system: System) -> Iterator[Forwarder]:
    """In front of MySQL."""
    url = make_url(system.servers.mysql_url)
    with Forwarder.opened(url.port or 3306, url.host or "127.0.0.1") as forwarder:
        yield forwarder


def url_through(forwarder: Forwarder, system: System) -> str:
    url = make_url(system.folder.settings["database_url"]).set(host="127.0.0.1", port=forwarder.port)
    return url.render_as_string(hide_password=False)


def start_pair(
    some: Services, kind: str, through: str, settings: Mapping[str, str] = MappingProxyType({})
) -> tuple[Process, Process]:
    """One process of each other kind, and two of this kind, of which each owns half.

    The first of them has its MySQL at `through`, and these settings.
    """
    for sink in {"milvus", "minio"} - {kind}:
        some.consumer(sink)
    if kind != "relay":
        some.relay()
    command = ("relay",) if kind == "relay" else ("consume", kind)
    silenced = some.start(*command, **{**SETTINGS, **settings}, database_url=through)
    pair = silenced, some.start(*command, **SETTINGS)
    shared = [LANES // 2] * 2
    wait_for(
        lambda: [len(some.owned(one)) for one in pair] == shared, "both to own half", timeout_seconds=START_SECONDS
    )
    return pair


def write(system: System, name: str) -> Share:
    """Write a file, delete documents, write another file."""
    share = Share(name, 40)
    first, second = share.write_files(system.folder.path)
    system.folder.succeed("write", str(first))
    system.folder.succeed("delete", *share.deleted)
    system.folder.succeed("write", str(second))
    return share


def problems(port: int) -> dict[str, str]:
    found: dict[str, str] = prometheus.get(port, "/readyz").json()["problems"]
    return found


def wait_until_taken_over(some: Services, other: Process, began: float) -> None:
    wait_for(
        lambda: len(some.owned(other)) == LANES,
        f"{other.name} to own everything",
        timeout_seconds=LEAVE_AFTER_SECONDS + TIMEOUT_SECONDS + REBALANCE_SECONDS + GRACE_SECONDS,
    )
    sys.stdout.write(f"{other.name} owned everything {time.monotonic() - began:.1f} seconds after the silence began\n")


def wait_until_complete(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=120)


@pytest.mark.parametrize("kind", ["relay", "minio"])
def test_silenced_process_hands_over_and_rejoins(kind: str, system: System, forwarder: Forwarder) -> None:
    with services(system.folder) as some:
        port = prometheus.free_port()
        silenced, other = start_pair(some, kind, url_through(forwarder, system), {"metrics_port": str(port)})
        before = write(system, "before")
        wait_until_complete(system)

        forwarder.silence()
        began = time.monotonic()
        during = write(system, "during")
        wait_until_taken_over(some, other, began)
        wait_until_complete(system)
        assert "database_failing seconds=" in silenced.log
        assert "group_left" in silenced.log
        assert "group_rejoined" not in silenced.log
        wait_for(lambda: problems(port).keys() == {"database", "group"}, "readiness to name the database")
        metrics = prometheus.get(port, "/metrics").data.decode()
        assert 'rag_outbox_retries_total{dependency="database",reason="2013"}' in metrics

        forwarder.heal()
        began = time.monotonic()
        wait_for(lambda: len(some.owned(silenced)) == LANES // 2, f"{silenced.name} to come back")
        sys.stdout.write(f"{silenced.name} was back {time.monotonic() - began:.1f} seconds after the silence ended\n")
        assert "database_recovered seconds=" in silenced.log
        after = write(system, "after")
        wait_until_complete(system)
        some.finish()

    shares = (before, during, after)
    versions = {doc_id: version for share in shares for doc_id, version in share.versions.items()}
    system.stores.assert_holds({key: one for share in shares for key, one in share.living.items()}, versions)
    kafka.assert_exactly_once_and_in_order(kafka.topic(system.servers, some.names.documents_topic), versions)


@pytest.mark.parametrize("kind", ["relay", "minio"])
def test_sigterm_ends_a_silenced_process_in_time(kind: str, system: System, forwarder: Forwarder) -> None:
    hanging = {"leave_after_seconds": "600", "database_timeout_seconds": "60", "kafka_session_timeout_ms": "6000"}
    with services(system.folder) as some:
        silenced, _ = start_pair(some, kind, url_through(forwarder, system), hanging)
        forwarder.silence()
        written = write(system, "during")
        hanging_calls = 1 if kind == "relay" else 2  # a consumer also looks at the table `sinks`
        wait_for(lambda: forwarder.held >= hanging_calls, "calls that hang", timeout_seconds=60)
        seconds = silenced.terminate()
        sys.stdout.write(f"{silenced.name} ended {seconds:.1f} seconds after SIGTERM\n")
        assert seconds < STOP_SECONDS + GRACE_SECONDS
        assert "batch_abandoned" in silenced.log
        wait_until_complete(system)
        some.finish()
    system.stores.assert_holds(written.living, written.versions)
