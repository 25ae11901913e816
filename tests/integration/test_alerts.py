"""Every alert: it fires on what it is for and on nothing less, by promtool, and it has a runbook."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.native.prometheus import RULES
from tests.support.prometheus import promtool
from tests.support.servers import ROOT

pytestmark = pytest.mark.integration

[GROUP] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
RUNBOOKS = ROOT / "docs" / "runbooks"
HEADINGS = ["What it means", "See more", "What to do", "How to know that it is over"]

Series = Mapping[str, str]  # values per minute, in promtool's notation, by series


@dataclass(frozen=True)
class Case:
    """What makes one alert fire from the minute `at` on, and what is just too little."""

    fires: Series
    quiet: tuple[Series, ...]
    at: int
    summary: str
    labels: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)  # annotations with labels in them


AGE = "rag_outbox_oldest_pending_age_seconds"
PUBLISHED = 'rag_outbox_relay_published_total{instance="a"}'
APPLIED = 'rag_outbox_applied_total{instance="a", sink="minio"}'
RUN = 'rag_outbox_process_info{instance="a", kind="run"}'
UP = 'up{job="rag-outbox", instance="a"}'
ROUND = 'rag_outbox_last_progress_timestamp_seconds{instance="a"}'
FREE, SIZE = (f'node_filesystem_{what}_bytes{{fstype="ext4", mountpoint="/data"}}' for what in ("avail", "size"))
IN_MEMORY = 'node_filesystem_avail_bytes{fstype="tmpfs", mountpoint="/run"}'
BACKUP = "rag_outbox_backup_newest_timestamp_seconds"
MONITOR = 'rag_outbox_monitor_up{source="database"}'

CASES = {
    "RelayNotPublishing": Case(
        {AGE: "0+60x10", PUBLISHED: "9x10"},
        (
            {AGE: "0+60x10", PUBLISHED: "0+1x10"},  # it works on a backlog
            {AGE: "0+60x10", APPLIED: "0+1x10", RUN: "1x10"},  # embedded: so does this
            {AGE: "60x10"},
        ),
        3,
        "No event is published, and the oldest has waited for 3m 0s.",
    ),
    "OldestAgeHigh": Case(
        {'rag_outbox_oldest_unapplied_age_seconds{sink="milvus"}': "0+60x10"},
        ({'rag_outbox_oldest_unapplied_age_seconds{sink="milvus"}': "300x10"},),
        7,
        "A document has waited for milvus for 7m 0s.",
        {"sink": "milvus"},
    ),
    "SinkLagHigh": Case(
        {f'kafka_consumergroup_lag{{consumergroup="rag-milvus", partition="{one}"}}': "15000x10" for one in (0, 1)},
        (
            {'kafka_consumergroup_lag{consumergroup="rag-milvus", partition="0"}': "20000x10"},
            {'kafka_consumergroup_lag{consumergroup="rag-milvus", partition="0"}': "30000x4 0x10"},
        ),
        5,
        "rag-milvus is 30k offsets behind.",
        {"consumergroup": "rag-milvus"},
    ),
    "DeadLettersRising": Case(
        {'rag_outbox_dead_letters_total{stage="minio"}': "0 1x5"},
        ({'rag_outbox_dead_letters_total{stage="minio"}': "5x5"},),
        1,
        "minio refused events for good in the last 10 minutes.",
        {"stage": "minio"},
    ),
    "DocumentFailing": Case(
        {f'rag_outbox_failing_documents{{sink="minio", instance="{one}"}}': "0 1x5" for one in "ab"},
        (
            {'rag_outbox_failing_documents{sink="minio"}': "0x5"},
            {'rag_outbox_failing_documents{sink="minio"}': "0 1 0 1 0"},
        ),
        2,
        "minio keeps failing on 2 documents, and its store answers.",
        {"sink": "minio"},
    ),
    "LanesUnassigned": Case(
        {"rag_outbox_lanes_unassigned": "8x5"},
        ({"rag_outbox_lanes_unassigned": "0 8 0 8 0"}, {"rag_outbox_lanes_unassigned": "0x5"}),
        2,
        "8 lanes have no relay.",
    ),
    "PartitionsUnassigned": Case(
        {'rag_outbox_partitions_unassigned{consumergroup="rag-minio"}': "16x5"},
        ({'rag_outbox_partitions_unassigned{consumergroup="rag-minio"}': "0 16 0 16 0"},),
        2,
        "16 partitions have no consumer of rag-minio.",
        {"consumergroup": "rag-minio"},
    ),
    "HeartbeatMissing": Case(
        {UP: "1 0x5"},
        (
            {UP: "0x5"},  # nothing ever listened there
            {UP: "1x5", ROUND: "0+60x5"},
        ),
        2,
        "The process at a is down, or its main loop is stuck.",
        {"job": "rag-outbox", "instance": "a"},
    ),
    "StoreUnreachable": Case(
        {'rag_outbox_dependency_up{instance="a", dependency="milvus"}': "1 0x5"},
        ({'rag_outbox_dependency_up{instance="a", dependency="milvus"}': "1 0 1 0 1"},),
        2,
        "a cannot reach milvus.",
        {"instance": "a", "dependency": "milvus"},
    ),
    "HistoryListGrowing": Case(
        {"rag_outbox_history_list_length": "150000x20"},
        ({"rag_outbox_history_list_length": "150000x8 0x12"}, {"rag_outbox_history_list_length": "100000x20"}),
        10,
        "MySQL keeps 150k old row versions.",
    ),
    "DiskNearlyFull": Case(
        {FREE: "9x10", SIZE: "100x10"},
        ({FREE: "10x10", SIZE: "100x10"}, {IN_MEMORY: "1x10", IN_MEMORY.replace("avail", "size"): "100x10"}),
        5,
        "/data has 9% left.",
        {"fstype": "ext4", "mountpoint": "/data"},
    ),
    "MonitorBlind": Case(
        {MONITOR: "0x5"},
        ({MONITOR: "1 0 1 0 1"},),
        2,
        "The backlog is unknown.",
        {"source": "database"},
        {"description": "No monitor runs, or it cannot read database."},
    ),
    "ReconcileDifferences": Case(
        {'rag_outbox_reconcile_differences{store="milvus", kind="missing"}': "0 3x5"},
        (
            {'rag_outbox_reconcile_differences{store="milvus", kind="missing"}': "0x5"},
            {'rag_outbox_reconcile_differences{store="minio", kind="foreign"}': "3x5"},
        ),
        2,
        "3 missing in milvus.",
        {"store": "milvus", "kind": "missing"},
    ),
    "RetentionFailing": Case(
        {'rag_outbox_retention_last_success_timestamp_seconds{policy="archives"}': "0x1500"},
        (
            {'rag_outbox_retention_last_success_timestamp_seconds{policy="archives"}': "0+60x1500"},
            {  # another process does it
                'rag_outbox_retention_last_success_timestamp_seconds{policy="archives", instance="a"}': "0x1500",
                'rag_outbox_retention_last_success_timestamp_seconds{policy="archives", instance="b"}': "0+60x1500",
            },
        ),
        1451,
        "Nothing was removed by the policy archives for 1d 0h 11m 0s.",
        {"policy": "archives"},
    ),
    "BackupTooOld": Case(
        {f'{BACKUP}{{place="copy"}}': "0x2200", f'{BACKUP}{{place="bucket"}}': "0x1500 90000x700"},
        (
            {f'{BACKUP}{{place="copy"}}': "0x1500 90000x700"},
            {f'{BACKUP}{{place="copy"}}': "0x2100 126000x100"},  # late, and in time before the six hours end
            {  # the monitor was replaced by one that reads the same
                f'{BACKUP}{{place="copy", instance="a"}}': "0x2200",
                f'{BACKUP}{{place="copy", instance="b"}}': "0x1500 90000x700",
            },
            {"rag_outbox_pending_events": "0x2200"},  # nobody began a backup
        ),
        2161,
        "The newest backup (copy) is over 30 hours old, or none has ended.",
        {"place": "copy"},
    ),
    "UncheckedHistory": Case(
        {"rag_outbox_unchecked_histories": "1x20"},
        ({"rag_outbox_unchecked_histories": "0x20"}, {"rag_outbox_unchecked_histories": "1x10 0x10"}),
        15,
        "A new history began, and the topic has not been searched for events that the database lost.",
    ),
}


def run_promtool(folder: Path, alert: str, series: Series, at: int, expected: list[dict[str, Any]]) -> None:
    """Feed the series to the rules; `expected` are the alerts of this name that fire at the minute `at`."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{at}m", "alertname": alert, "exp_alerts": expected}],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [test]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_valid() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_fires_in_its_minute_and_not_before(alert: str, tmp_path: Path) -> None:
    case, rule = CASES[alert], ALERTS[alert]
    expected = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": rule["annotations"] | {"summary": case.summary} | dict(case.more),
    }
    run_promtool(tmp_path, alert, case.fires, case.at, [expected])
    run_promtool(tmp_path, alert, case.fires, case.at - 1, [])


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_does_not_fire_for_less(alert: str, tmp_path: Path) -> None:
    for series in CASES[alert].quiet:
        run_promtool(tmp_path, alert, series, CASES[alert].at, [])


def test_stuck_loop_counts_as_missing_heartbeat(tmp_path: Path) -> None:
    rule = ALERTS["HeartbeatMissing"]
    summary = "The process at a is down, or its main loop is stuck."
    expected = {"exp_labels": {**rule["labels"], "instance": "a"}}
    expected["exp_annotations"] = rule["annotations"] | {"summary": summary}
    run_promtool(tmp_path, "HeartbeatMissing", {UP: "1x9", ROUND: "0x9"}, 7, [expected])


def test_missing_monitor_counts_as_blind(tmp_path: Path) -> None:
    rule = ALERTS["MonitorBlind"]
    annotations = rule["annotations"] | {"description": "No monitor runs, or it cannot read anything."}
    expected = {"exp_labels": rule["labels"], "exp_annotations": annotations}
    run_promtool(tmp_path, "MonitorBlind", {UP: "1x5"}, 4, [expected])


def test_every_alert_has_a_severity_and_a_text() -> None:
    for alert, rule in ALERTS.items():
        assert set(rule["labels"]) == {"severity"}, alert
        assert rule["labels"]["severity"] in {"critical", "warning"}, alert
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, alert


def test_every_alert_has_its_runbook() -> None:
    named = {alert: re.sub(r"(?<!^)([A-Z])", r"-\1", alert).lower() for alert in ALERTS}
    assert {alert: rule["annotations"]["runbook"] for alert, rule in ALERTS.items()} == {
        alert: f"docs/runbooks/{name}.md" for alert, name in named.items()
    }


def test_every_runbook_is_listed() -> None:
    pages = {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", (RUNBOOKS / "README.md").read_text())) == pages


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook_answers_the_four_questions(alert: str) -> None:
    page = (ROOT / ALERTS[alert]["annotations"]["runbook"]).read_text()
    assert page.startswith(f"# {alert}\n\n**First:** ")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS
