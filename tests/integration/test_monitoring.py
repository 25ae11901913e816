"""A real Prometheus scrapes the real processes: every query of the dashboards and every alert finds its data."""

import json
import math
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import NamedTuple

import pytest
import urllib3
import yaml

from compose.grafana.dashboards import FOLDER
from compose.native.prometheus import EXPORTERS, RULES
from operations.retention.policy import NAMES
from schema.database.connection import connect
from schema.sinks import SINKS
from tests.chaos.conftest import initialised
from tests.support import prometheus
from tests.support.commands import Folder
from tests.support.console import words
from tests.support.monitored import COMMANDS, Monitored, monitored
from tests.support.served import serving
from tests.support.servers import ROOT, MilvusServer, MinioServer, Servers
from tests.support.waiting import wait_for
from tests.support.written import rows

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

COMPARISON = re.compile(r" (==|>|<) [\d.]+")
PAGE = ROOT / "docs" / "metrics.md"
VALUES = {"$__rate_interval": "10s", "$sink": ".+", "$group": ".+"}  # as Grafana replaces them


class Metric(NamedTuple):
    type: str
    labels: frozenset[str]


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


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory,
    servers: Servers,
    milvus_server: MilvusServer,
    minio_server: MinioServer,
    mysql_client: Path,
) -> Iterator[Monitored]:
    """One process of each kind and both exporters, all scraped; a backup was made."""
    path = tmp_path_factory.mktemp("monitored")
    with (
        initialised(path, servers, milvus_server, minio_server) as initial,
        prometheus.exporters(path, servers.mysql_url) as exporters,
        monitored(initial.folder, exporters) as watched,
    ):
        initial.folder.settings["mysql_client_dir"] = str(mysql_client)
        initial.folder.succeed("backup", "create")
        watched.start_all()
        yield watched


def test_every_query_and_alert_finds_its_data(system: Monitored) -> None:
    found = dict.fromkeys(queries())
    assert len(found) > 100
    with system.traffic():
        targets = len(system.ports) + len(EXPORTERS)
        wait_for(lambda: system.prometheus.healthy_targets() == targets, "all targets to be scraped")
        for place, expression in found:
            if "rag_outbox_reconcile_" in expression:
                continue  # no process of this system compares its stores: see test_reconcile_command.py
            wait_for(lambda: has_data(system, expression), f"data for {place}: {expression}", timeout_seconds=40)  # noqa: B023
    assert system.prometheus.firing() - {"DiskNearlyFull", "HistoryListGrowing"} == set(), "of this machine, not ours"


def has_data(system: Monitored, expression: str) -> bool:
    for name, value in VALUES.items():
        expression = expression.replace(name, value)
    found = system.prometheus.query(expression)
    return any(not math.isnan(value) for _, value in found)


def documented(kind: str) -> dict[str, Metric]:
    """The metrics of docs/metrics.md that a process of this kind has."""
    found = {}
    for section in re.split("^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        if kind in section.partition("\n")[0].lower():
            for name, of_type, labels in re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", section, re.MULTILINE):
                found[name] = Metric(of_type, frozenset(re.findall(r"\w+", labels)))
    return found


def served(port: int) -> dict[str, Metric]:
    """The metrics at /metrics that are ours; the labels are those of all samples."""
    text = prometheus.get(port, "/metrics").data.decode()
    found = {}
    for name, of_type in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        labels = re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{(.*)\}} ", text, re.MULTILINE)
        names = {label for one in labels for label in re.findall(r'(\w+)="', one)} - {"le"}
        found[name] = Metric(of_type, frozenset(names))
    return {name: metric for name, metric in found.items() if not name.startswith(("process_", "python_"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_exactly_the_metrics_of_the_services(system: Monitored, name: str) -> None:
    kind = "consumer" if name in SINKS else name
    port, retries = system.ports[name], "rag_outbox_retries_total"

    def is_as_documented() -> bool:
        found, expected = served(port), documented(kind)
        if not found[retries].labels:  # they are known only after a retry
            expected[retries] = found[retries]
        return found == expected

    wait_for(is_as_documented, "the metrics of the page")


def test_monitor_and_consumer_of_the_object_store_run_retention(system: Monitored) -> None:
    engine = connect(system.folder.settings["database_url"])
    ended = "SELECT policy FROM retention_runs WHERE ended_at IS NOT NULL"
    wait_for(lambda: {policy for (policy,) in rows(engine, ended)} == set(NAMES), "a run of every policy")
    engine.dispose()


def test_page_has_exactly_the_metrics_of_run(tmp_path: Path) -> None:
    """Without Kafka and MySQL some have no samples, and so no labels to compare."""
    folder, port = Folder(tmp_path / "data"), prometheus.free_port()
    folder.succeed("init")
    folder.succeed("backup", "create")
    with folder.start("run", metrics_port=str(port)):
        wait_for(lambda: prometheus.answers(port, "/readyz"), "run to be ready")
        wait_for(lambda: served(port)["rag_outbox_monitor_up"].labels, "the first look at the backlog")
        retained = "rag_outbox_retention_last_success_timestamp_seconds"
        wait_for(lambda: retained in served(port) and served(port)[retained].labels, "the first run of retention")
        found, page = served(port), documented("run")
    assert {name: one.type for name, one in found.items()} == {name: one.type for name, one in page.items()}
    differing = {name for name, one in found.items() if one.labels != page[name].labels}
    assert differing == {
        "rag_outbox_consumer_partitions_owned",
        "rag_outbox_retries_total",
        "rag_outbox_partitions_unassigned",
        "kafka_consumergroup_lag",
        "kafka_consumergroup_members",
    }


def test_console_shows_the_processes_and_a_document_of_the_services(system: Monitored) -> None:
    system.write(1)
    doc_id = system.folder.succeed("list", "--limit", "1")["documents"][0]["doc_id"]
    with serving(system.folder) as console:

        def get(path: str) -> urllib3.BaseHTTPResponse:
            return urllib3.request("GET", console.url + path, timeout=60, retries=False)

        def working() -> list[str]:
            return re.findall(r"<strong>(relay|consumer)</strong>.*?(?:>0–15<)", get("").data.decode(), re.DOTALL)

        wait_for(lambda: working() == ["relay", "consumer", "consumer"], "every process with all lanes")
        shown = words(get("").data.decode())
        assert "Every lane has a relay." in shown
        assert "Kafka answers." in shown
        story = get(f"document?id={doc_id}")
        [link] = re.findall(r'href="/(document/file[^"]+raw-files[^"]+)"', story.data.decode())
        wait_for(lambda: get(unescape(link)).data == b"x", "the file in the object store")
