"""Health: checks run in the background, so that no answer waits for a store, and say what is wrong."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from operations.monitoring import health
from operations.monitoring.health import Check, Health
from schema.metrics import ProcessMetrics
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit

Start = Callable[..., Health]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def start(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the checks of some stores, every hundredth of a second."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.05)
    with ExitStack() as stack:

        def make(is_member: Callable[[], bool] = lambda: True, **stores: Check) -> Health:
            made = Health(ProcessMetrics(registry, "test"), stores, is_member)
            made.start()
            stack.callback(made.stop)
            return made

        yield make


def problems(watched: Health) -> dict[str, str]:
    return dict(watched.report().problems)


def test_process_is_ready_once_every_store_answered(start: Start, registry: CollectorRegistry) -> None:
    watched = start(database=lambda: None, milvus=lambda: None)
    wait_for(lambda: problems(watched) == {}, "both answers")
    assert watched.is_live
    assert registry.get_sample_value("rag_outbox_dependency_up", {"dependency": "milvus"}) == 1


def test_failed_check_is_named_until_it_succeeds(start: Start, registry: CollectorRegistry) -> None:
    is_away = True

    def check() -> None:
        if is_away:
            raise ConnectionError("refused\nand a second line")

    watched = start(milvus=check)
    wait_for(lambda: problems(watched) == {"milvus": "ConnectionError: refused"}, "the failure")
    assert registry.get_sample_value("rag_outbox_dependency_up", {"dependency": "milvus"}) == 0
    is_away = False
    wait_for(lambda: problems(watched) == {}, "the recovery")


def test_silent_store_makes_unready_and_is_asked_once(start: Start) -> None:
    answer = threading.Event()
    asked = []

    def check() -> None:
        asked.append(1)
        answer.wait()

    watched = start(milvus=check, database=lambda: None)
    wait_for(lambda: problems(watched).get("milvus", "").startswith("no answer within"), "the silence")
    wait_for(lambda: problems(watched).keys() == {"milvus"}, "the other store")
    assert len(asked) == 1
    answer.set()
    wait_for(lambda: problems(watched) == {}, "the late answer")


def test_process_outside_its_group_is_not_ready(start: Start) -> None:
    watched = start(lambda: False, database=lambda: None)
    wait_for(lambda: problems(watched) == {"group": "not a member"}, "the check")


def test_loop_that_stands_still_is_not_live(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = start()
    monkeypatch.setattr(health, "READY_SECONDS", 0.0)
    assert problems(watched) == {"progress": "none for 0 s"}
    assert watched.is_live
    monkeypatch.setattr(health, "LIVE_SECONDS", 0.0)
    assert not watched.is_live
