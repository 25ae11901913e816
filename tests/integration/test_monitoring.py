"""A real Prometheus scrapes the real processes: every query of the dashboards and every alert finds its data."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from compose.grafana.dashboards import FOLDER
from compose.native.prometheus import EXPORTERS, RULES
from tests.chaos.conftest import initialised
from tests.support import prometheus
from tests.support.monitored import Monitored, monitored
from tests.support.servers import MilvusServer, MinioServer, Servers
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

COMPARISON = re.compile(r" (==|>|<) [\d.]+")
VALUES = {"$__rate_interval": "10s", "$sink": ".+", "$group": ".+"}  # as Grafana replaces them


def queries() -> Iterator[tuple[str, str]]:
    """Every expression with the place that it is from. A comparison is left out: it is rightly empty."""
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for mark in board["annotations"]["list"]:
            yield f"{path.stem}: {mark['name']}", COMPARISON.sub("", mark["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.findall(r"[\w]+", variable["query"])[1:]
                yield f"{path.stem}: {variable['name']}", f"count by ({label}) ({metric})"
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        yield f"alert {rule['alert']}", COMPARISON.sub("", rule["expr"])
        for metric, labels in re.findall(r"\b((?:rag_outbox|kafka|node)_\w+)(\{[^}]*\})?", rule["expr"]):
            if 'kind="run"' not in labels:  # of the embedded profile
                yield f"alert {rule['alert']}", metric + labels


@pytest.fixture
def system(
    tmp_path: Path, servers: Servers, milvus_server: MilvusServer, minio_server: MinioServer
) -> Iterator[Monitored]:
    """One process of each kind and both exporters, all scraped."""
    with (
        initialised(tmp_path, servers, milvus_server, minio_server) as initial,
        prometheus.exporters(tmp_path, servers.mysql_url) as exporters,
        monitored(initial.folder, exporters) as watched,
    ):
        watched.start_all()
        yield watched


def test_every_query_and_alert_finds_its_data(system: Monitored) -> None:
    found = dict.fromkeys(queries())
    assert len(found) > 100
    with system.traffic():
        targets = len(system.ports) + len(EXPORTERS)
        wait_for(lambda: system.prometheus.healthy_targets() == targets, "all targets to be scraped")
        for place, expression in found:
            wait_for(lambda: has_data(system, expression), f"data for {place}: {expression}", timeout_seconds=40)  # noqa: B023
    assert system.prometheus.firing() - {"DiskNearlyFull", "HistoryListGrowing"} == set(), "of this machine, not ours"


def has_data(system: Monitored, expression: str) -> bool:
    for name, value in VALUES.items():
        expression = expression.replace(name, value)
    found = system.prometheus.query(expression)
    return any(not math.isnan(value) for _, value in found)
