"""Prometheus with promtool, from Debian's archive; it scrapes the processes of this machine."""

import http.client
import json
from pathlib import Path

from compose.native import debian, process, tools, versions
from compose.native.cache import Cache
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State

KEY = f"prometheus-{versions.PROMETHEUS}"
RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
PROGRAMS = ("prometheus", "promtool")
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
        tools.need_machine(self.name, "x86_64", "aarch64")
        self._cache.fill_once(self.name, KEY, self._fill)

    def _fill(self, part: Path) -> None:
        debian.unpack(self.name, versions.PROMETHEUS_SUITE, ["prometheus"], part, self._cache.root / f"{KEY}.log")
        for name in PROGRAMS:
            (part / "root" / "usr" / "bin" / name).rename(part / name)
        tools.remove(part / "apt")
        tools.remove(part / "root")

    def start(self) -> Process:
        self._home.mkdir(parents=True, exist_ok=True)
        targets = [f"{HOST}:{port}" for port in range(FIRST_PORT, FIRST_PORT + PORTS)]
        scrape = {"job_name": "rag-outbox", "static_configs": [{"targets": targets}]}
        configuration = {
            "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [scrape],
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
        connection = http.client.HTTPConnection(HOST, self._port, timeout=3.0)
        try:
            connection.request("GET", "/-/ready")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return str(error)
        finally:
            connection.close()
        return None if status == http.client.OK else f"its readiness check answers {status}"

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=10.0)

    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def environment(self) -> dict[str, str]:
        return {}

    @property
    def _port(self) -> int:
        return self._state.record(self.name).ports["port"]
