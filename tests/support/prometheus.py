"""A real Prometheus with its exporters and promtool, all from the cache of the native servers."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import urllib3
from sqlalchemy import make_url

from compose.native import prometheus
from compose.native.cache import Cache
from tests.support.servers import native
from tests.support.waiting import wait_for

HOST = "127.0.0.1"
_ANSWER_SECONDS = 10.0

Labels = Mapping[str, str]


@cache
def program(name: str) -> Path:
    """The path of prometheus, promtool or an exporter. If it cannot be fetched, fails under CI, else skips."""
    path = Cache.of_this_user().folder(prometheus.KEY) / name
    if not path.exists():
        fetched = native("fetch", "--only", "prometheus")
        if fetched.returncode != 0:
            pytest.fail(fetched.stderr) if os.environ.get("CI") == "true" else pytest.skip(fetched.stderr)
    return path


def promtool(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(program("promtool")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def free_port() -> int:
    with closing(socket.create_server((HOST, 0))) as server:
        return int(server.getsockname()[1])


def get(port: int, path: str, **fields: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", f"http://{HOST}:{port}{path}", fields=fields, timeout=_ANSWER_SECONDS, retries=False)


def answers(port: int, path: str) -> bool:
    try:
        return get(port, path).status == 200
    except urllib3.exceptions.HTTPError:
        return False


@dataclass(frozen=True)
class Prometheus:
    port: int

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """The series of an instant query, with their values now."""
        return [(one["metric"], float(one["value"][1])) for one in self._data("query", query=expression)["result"]]

    def value(self, expression: str) -> float | None:
        """The value of a query with at most one series; None when it has no data."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def range(self, expression: str, start: float, end: float, step_seconds: float) -> list[Any]:
        """The series of a range query: [{metric: {...}, values: [[time, text], ...]}, ...]."""
        parts = {"start": str(start), "end": str(end), "step": str(step_seconds)}
        found: list[Any] = self._data("query_range", query=expression, **parts)["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self._data("alerts")["alerts"] if one["state"] == "firing"}

    def healthy_targets(self) -> int:
        return sum(one["health"] == "up" for one in self._data("targets")["activeTargets"])

    def _data(self, path: str, **fields: str) -> Any:
        response = get(self.port, f"/api/v1/{path}", **fields)
        decoded = json.loads(response.data)
        assert decoded["status"] == "success", f"{fields}: {decoded}"
        return decoded["data"]


@contextmanager
def running(folder: Path, jobs: Mapping[str, Sequence[int]], rules: Path = prometheus.RULES) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the ports of each job, and evaluates the rules, every second."""
    port = free_port()
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": [f"{HOST}:{target}" for target in ports]}]}
        for job, ports in jobs.items()
    ]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every, "rule_files": [str(rules)], "scrape_configs": scrapes}
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(configuration))
    arguments = [f"--config.file={path}", f"--storage.tsdb.path={folder}/prometheus"]
    with _started(folder, "prometheus", [*arguments, f"--web.listen-address={HOST}:{port}"], {}):
        wait_for(lambda: answers(port, "/-/ready"), "Prometheus to be ready")
        yield Prometheus(port)


@contextmanager
def exporters(folder: Path, mysql_url: str) -> Iterator[dict[str, list[int]]]:
    """Exporters of a MySQL and of this machine. Yields their ports, by job."""
    url = make_url(mysql_url)
    source = {"DATA_SOURCE_NAME": f"{url.username}:{url.password}@tcp({url.host}:{url.port})/"}
    mysqld, node = free_port(), free_port()
    with (
        _started(folder, "prometheus-mysqld-exporter", [f"--web.listen-address={HOST}:{mysqld}"], source),
        _started(folder, "prometheus-node-exporter", [f"--web.listen-address={HOST}:{node}"], {}),
    ):
        yield {"mysqld-exporter": [mysqld], "node-exporter": [node]}


@contextmanager
def _started(folder: Path, name: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Iterator[None]:
    """A program that is killed at the end of the context; its output is in a file in `folder`."""
    command = [str(program(name)), *arguments]
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **variables}) as process,
    ):
        try:
            yield
        finally:
            process.kill()
