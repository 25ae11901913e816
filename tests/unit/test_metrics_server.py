"""The HTTP endpoint of a process: metrics, health, readiness, and its port."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client import CollectorRegistry

from operations.errors import OperationError
from operations.monitoring import health, server
from operations.monitoring.health import Health
from schema.metrics import BatchHistogram, ProcessMetrics
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit

HOST = "127.0.0.1"


@contextmanager
def served(port: int | None, check: Callable[[], None] = lambda: None) -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    watched = Health(ProcessMetrics(registry, "test"), {"database": check}, lambda: True)
    with server.serve(registry, watched, HOST, port):
        yield registry


@pytest.fixture
def port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_and_health_are_served(port: int) -> None:
    with served(port):
        wait_for(lambda: get(port, "/readyz")[0] == 200, "the first check")
        assert json.loads(get(port, "/readyz")[1])["problems"] == {}
        assert get(port, "/healthz") == (200, '{"live": true}\n')
        assert 'rag_outbox_process_info{kind="test"' in get(port, "/metrics")[1]
        assert get(port, "/")[0] == 404
    with pytest.raises(urllib.error.URLError):
        get(port, "/metrics")


def test_unready_process_says_what_is_wrong(port: int) -> None:
    def fail() -> None:
        raise ConnectionError("refused")

    with served(port, fail):
        wait_for(lambda: "refused" in get(port, "/readyz")[1], "the first check")
        status, body = get(port, "/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert get(port, "/healthz")[0] == 200, "a restart does not bring a store back"


def test_stuck_process_is_not_live(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIVE_SECONDS", 0.0)
    with served(port):
        assert get(port, "/healthz") == (503, '{"live": false}\n')


def test_port_0_serves_nothing() -> None:
    with served(0) as registry:
        assert registry.get_sample_value("rag_outbox_last_progress_timestamp_seconds")


def test_given_port_in_use_is_an_error(port: int) -> None:
    with (
        socket.create_server((HOST, port)),
        pytest.raises(OperationError, match=f"METRICS_PORT: cannot listen on port {port} of 127.0.0.1: .*in use"),
        served(port),
    ):
        pass


def test_without_a_port_the_first_free_one_is_taken(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_PORT", port)
    with ExitStack() as stack:
        stack.enter_context(socket.create_server((HOST, port)))
        stack.enter_context(served(None))
        found = wait_for(lambda: [one for one in range(port + 1, port + 10) if is_served(one)], "a free port")
        assert found


def test_process_runs_without_metrics_when_no_port_is_free(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FIRST_PORT", port)
    monkeypatch.setattr(server, "_PORTS", 1)
    with socket.create_server((HOST, port)), served(None):
        assert "no_metrics host=127.0.0.1 reason=no free port" in caplog.text


def test_batch_histogram_counts_like_single_observations() -> None:
    registry = CollectorRegistry()
    histogram = BatchHistogram("ages", "Ages.", (0.1, 1.0), registry)
    histogram.observe_many([5.0, 0.05, 0.1, 0.5])
    histogram.observe_many([0.2])

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"ages_{name}", labels)

    assert [sample("bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [2, 4, 5]
    assert sample("count") == 5
    assert sample("sum") == pytest.approx(5.85)

    histogram.observe_many([0.05, 5.0], of=6)  # a sample
    assert [sample("bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [5, 7, 11]
    assert sample("sum") == pytest.approx(5.85 + 3 * 5.05)


def is_served(port: int) -> bool:
    try:
        return get(port, "/healthz")[0] == 200
    except urllib.error.URLError:
        return False
