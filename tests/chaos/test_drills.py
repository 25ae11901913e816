"""Drills: something stops, numbers rise and the alert fires; it starts again, they return to 0, and the alert ends."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from compose.native.prometheus import RULES
from tests.chaos.conftest import initialised
from tests.support.monitored import Monitored, monitored
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.switch import Switch
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

DOCUMENTS = 10
LAG = {sink: f'sum(kafka_consumergroup_lag{{consumergroup=~".+-{sink}"}})' for sink in ("milvus", "minio")}
AGE = {sink: f'rag_outbox_oldest_unapplied_age_seconds{{sink="{sink}"}}' for sink in ("milvus", "minio")}
PENDING = "rag_outbox_pending_events"


def hasten(rules: str) -> str:
    """The same rules for a drill of seconds: shorter waits and windows, and lower limits of ages and lag."""
    rules = re.sub(r"\bfor: \w+", "for: 1s", rules)
    return rules.replace("[2m]", "[5s]").replace("> 60 ", "> 3 ").replace("> 300\n", "> 3\n").replace("> 20000", "> 3")


@pytest.fixture(scope="module")
def milvus_switch(milvus_server: MilvusServer) -> Iterator[Switch]:
    """The port through which the consumer reaches Milvus."""
    with Switch.opened(port_of(milvus_server)) as switch:
        yield switch


@pytest.fixture(scope="module")
def drilled(
    tmp_path_factory: pytest.TempPathFactory,
    servers: Servers,
    milvus_server: MilvusServer,
    minio_server: MinioServer,
    milvus_switch: Switch,
) -> Iterator[Monitored]:
    """A system at work. Each drill ends as it began, so that they share it."""
    path = tmp_path_factory.mktemp("drills")
    rules = path / "rules.yml"
    rules.write_text(hasten(RULES.read_text()))
    with initialised(path, servers, milvus_server, minio_server) as system, monitored(system.folder, {}, rules) as made:
        uri = system.folder.settings["milvus_uri"].replace(str(port_of(milvus_server)), str(milvus_switch.port))
        made.folder.settings["milvus_uri"] = uri
        made.start_all()
        made.write(DOCUMENTS)
        wait_until_above(made, "min(rag_outbox_applied_total)", DOCUMENTS - 1)  # by both sinks
        yield made


def port_of(milvus: MilvusServer) -> int:
    return int(milvus.uri.rpartition(":")[2])


def wait_until_current(system: Monitored) -> None:
    """Nothing waits, as Prometheus sees it."""
    for expression in (PENDING, *LAG.values(), *AGE.values()):
        wait_for(lambda: system.prometheus.value(expression) == 0, f"{expression} to be 0")  # noqa: B023


def wait_until_above(system: Monitored, expression: str, limit: float) -> None:
    wait_for(lambda: (system.prometheus.value(expression) or 0) > limit, f"{expression} above {limit}")


def wait_until_over(system: Monitored, *alerts: str) -> None:
    wait_until_current(system)
    wait_for(lambda: not system.prometheus.firing() & set(alerts), f"the end of {alerts}")


@contextmanager
def alerting(system: Monitored, *alerts: str) -> Iterator[None]:
    """These alerts do not fire before the context, and do at its end."""
    wait_until_over(system, *alerts)
    yield
    for alert in alerts:
        wait_for(lambda: alert in system.prometheus.firing(), f"{alert} to fire")  # noqa: B023


def test_stopped_consumer_raises_lag_and_age_until_it_returns(drilled: Monitored) -> None:
    expected = ("OldestAgeHigh", "SinkLagHigh", "PartitionsUnassigned", "HeartbeatMissing")
    with alerting(drilled, *expected):
        drilled.processes["milvus"].terminate()
        drilled.write(DOCUMENTS)
        wait_until_above(drilled, LAG["milvus"], DOCUMENTS - 1)
        wait_until_above(drilled, AGE["milvus"], 3)
        wait_for(lambda: drilled.prometheus.value(LAG["minio"]) == 0, "the other sink to be current")
    drilled.start("milvus")
    wait_until_over(drilled, *expected)


def test_killed_relay_is_seen_until_it_returns(drilled: Monitored) -> None:
    expected = ("RelayNotPublishing", "LanesUnassigned", "HeartbeatMissing", "OldestAgeHigh")
    with alerting(drilled, *expected):
        drilled.processes["relay"].kill()
        drilled.write(DOCUMENTS)
        wait_until_above(drilled, PENDING, DOCUMENTS - 1)
        wait_until_above(drilled, "rag_outbox_oldest_pending_age_seconds", 3)
    drilled.start("relay")
    wait_until_over(drilled, *expected)


def test_silent_milvus_is_named_until_it_answers(
    drilled: Monitored, milvus_switch: Switch, milvus_server: MilvusServer
) -> None:
    expected = ("StoreUnreachable", "OldestAgeHigh", "SinkLagHigh")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # it accepts connections and never answers
        with alerting(drilled, *expected):
            milvus_switch.to(silent.getsockname()[1])
            drilled.write(DOCUMENTS)
            wait_until_above(drilled, AGE["milvus"], 3)
        unreachable = drilled.prometheus.query("rag_outbox_dependency_up == 0")
        assert [labels["dependency"] for labels, _ in unreachable] == ["milvus"]
        assert "PartitionsUnassigned" not in drilled.prometheus.firing(), "the consumer waits and keeps its partitions"
        milvus_switch.to(port_of(milvus_server))
    wait_until_over(drilled, *expected)
