"""Prometheus with promtool and two exporters, from Debian's archive; it scrapes the processes of this machine."""

import http.client
import json
from pathlib import Path

from compose.native import debian, process, tools, versions
from compose.native.cache import Cache
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State

KEY = f"monitoring-{versions.PROMETHEUS_SUITE}"
RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
PROGRAMS = ("prometheus", "promtool", "prometheus-mysqld-exporter", "prometheus-node-exporter")
PACKAGES = ["prometheus", "prometheus-mysqld-exporter", "prometheus-node-exporter"]
EXPORTERS = ("mysqld-exporter", "node-exporter")  # of compose/native/exporters.py
FIRST_PORT, PORTS = 9470, 10  # a process takes the first free port from there


class Prometheus:
    """Collects the metrics of the rag-outbox processes and evaluates the alert rules."""

    name = "prometheus"
    version = versions.PROMETHEUS
    port_names: tuple[str, ...] = ("port",)
    start_seconds = 30.0

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._home = state.folder / self.name
        self.log = self._home / "prometheus.log"

    def fetch(self) -> None:
        fetch(self.name, self._cache)

    def start(self) -> Process:
        self._home.mkdir(parents=True, exist_ok=True)
        targets = [f"{HOST}:{port}" for port in range(FIRST_PORT, FIRST_PORT + PORTS)]
        jobs = {"rag-outbox": targets}
        for name in EXPORTERS:
            if self._state.record(name).ports:
                jobs[name] = [f"{HOST}:{self._state.record(name).ports['port']}"]
        configuration = {
            "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": its}]} for job, its in jobs.items()],
        }
        (self._home / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        command: list[str | Path] = [
            self._cache.folder(KEY) / "prometheus",
            f"--config.file={self._home}/prometheus.yml",
            f"--storage.tsdb.path={self._home}/data",
            "--storage.tsdb.retention.time=2d",
            f"--web.listen-address={HOST}:{self._port}",
        ]
        return process.spawn(command, self._home, self.log, {})

    def ready(self) -> str | None:
        return answer("/-/ready", self._port)

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=10.0)

    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def environment(self) -> dict[str, str]:
        return {}

    @property
    def _port(self) -> int:
        return self._state.record(self.name).ports["port"]


def fetch(name: str, cache: Cache) -> None:
    """Fetch all programs of this file, for the server `name`. Raises Unavailable."""

    def fill(part: Path) -> None:
        debian.unpack(name, versions.PROMETHEUS_SUITE, PACKAGES, part, cache.root / f"{KEY}.log")
        for program in PROGRAMS:
            (part / "root" / "usr" / "bin" / program).rename(part / program)
        tools.remove(part / "apt")
        tools.remove(part / "root")

    tools.need_machine(name, "x86_64", "aarch64")
    cache.fill_once(name, KEY, fill)


def answer(path: str, port: int) -> str | None:
    """None if this machine's HTTP server on `port` answers 200, otherwise the reason."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3.0)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()
    return None if status == http.client.OK else f"{path} answers {status}"
