"""The committed dashboards are those of the code, and hang together."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from compose.grafana.dashboards import FOLDER, texts

pytestmark = pytest.mark.unit

BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def expressions(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_committed_dashboards_are_fresh() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == texts(), "run: make dashboards"


def test_dashboards_are_the_four() -> None:
    assert set(BOARDS) == {"overview", "relay", "consumers", "stores"}


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_is_used_and_declared(name: str) -> None:
    declared = {variable["name"] for variable in BOARDS[name]["templating"]["list"]}
    used = {found for one in expressions(BOARDS[name]) for found in re.findall(r"\$(\w+)", one)} - {"__rate_interval"}
    assert declared == used | {"datasource"}


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_has_unit_text_and_place(name: str) -> None:
    panels = BOARDS[name]["panels"]
    for panel in panels:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert "unit" in defaults or panel["type"] == "state-timeline", panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))


@pytest.mark.parametrize("name", BOARDS)
def test_legends_name_labels_that_the_query_keeps(name: str) -> None:
    for panel in BOARDS[name]["panels"]:
        for target in panel["targets"]:
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            named = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            assert not kept or set(named) <= {label.strip() for labels in kept for label in labels.split(",")}, target


def test_every_dashboard_links_to_the_others_and_marks_rebalances() -> None:
    for board in BOARDS.values():
        [link] = board["links"]
        assert set(link["tags"]) <= set(board["tags"])
        marked = " ".join(one["expr"] for one in board["annotations"]["list"])
        for metric in ("relay_lanes_owned", "consumer_partitions_owned", "relay_fenced_total"):
            assert f"rag_outbox_{metric}" in marked
