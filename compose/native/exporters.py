"""Two exporters next to Prometheus: the state of MySQL, and of the disks, memory and processors of this machine."""

from compose.native import process, prometheus, versions
from compose.native.cache import Cache
from compose.native.errors import ServerError
from compose.native.mysql import MySQL
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State


class Exporter:
    """One program that serves /metrics."""

    name: str
    version: str
    port_names: tuple[str, ...] = ("port",)
    start_seconds = 15.0

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._home = state.folder / self.name
        self.log = self._home / f"{self.name}.log"

    def fetch(self) -> None:
        prometheus.fetch(self.name, self._cache)

    def start(self) -> Process:
        self._home.mkdir(parents=True, exist_ok=True)
        program = self._cache.folder(prometheus.KEY) / f"prometheus-{self.name}"
        return process.spawn(
            [program, f"--web.listen-address={HOST}:{self._port}"], self._home, self.log, self._variables()
        )

    def ready(self) -> str | None:
        return prometheus.answer("/metrics", self._port)

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=5.0)

    def url(self) -> str:
        return f"http://{HOST}:{self._port}/metrics"

    def environment(self) -> dict[str, str]:
        return {}

    def _variables(self) -> dict[str, str]:
        return {}

    @property
    def _port(self) -> int:
        return self._state.record(self.name).ports["port"]


class NodeExporter(Exporter):
    """The machine."""

    name = "node-exporter"
    version = versions.NODE_EXPORTER


class MysqldExporter(Exporter):
    """The MySQL server of the same folder."""

    name = "mysqld-exporter"
    version = versions.MYSQLD_EXPORTER

    def _variables(self) -> dict[str, str]:
        port = self._state.record(MySQL.name).ports.get(MySQL.port_names[0])
        if port is None:
            raise ServerError(f"{self.name}: there is no MySQL in this folder; start it first, or together")
        return {"DATA_SOURCE_NAME": f"root:{self._state.password}@tcp({HOST}:{port})/"}
