"""MinIO, built from source with Go: it has no package."""

import http.client
from pathlib import Path

from compose.native import process, tools, versions
from compose.native.cache import Cache
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State

KEY = f"minio-{versions.MINIO}"
ACCESS_KEY = "rag-outbox"


class Minio:
    """An object store on one folder."""

    name = "minio"
    version = versions.MINIO
    port_names: tuple[str, ...] = ("port",)
    start_seconds = 30.0

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._home = state.folder / self.name
        self.log = self._home / "minio.log"

    def fetch(self) -> None:
        tools.need_machine(self.name, "x86_64", "aarch64")
        self._cache.fill_once(self.name, KEY, self._fill)

    def _fill(self, part: Path) -> None:
        tools.need(self.name, "go", package="Go 1.24 or later")
        work = self._cache.root / "go"  # kept when a build fails or is interrupted: the next one continues
        environment = {
            "GOPATH": f"{work}/path",
            "GOMODCACHE": f"{work}/modules",
            "GOCACHE": f"{work}/build",
            "GOBIN": str(part),
            "CGO_ENABLED": "0",
        }
        command = [
            "go",
            "install",
            "-trimpath",
            "-modcacherw",
            "-ldflags=-s -w",
            f"github.com/minio/minio@{self.version}",
        ]
        tools.run(self.name, command, self._cache.root / f"{KEY}.log", environment)
        tools.remove(work)

    def start(self) -> Process:
        (self._home / "data").mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            self._cache.folder(KEY) / "minio",
            "server",
            self._home / "data",
            f"--address={HOST}:{self._port}",
            f"--certs-dir={self._home}/certs",
        ]
        environment = {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": self._state.password,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        return process.spawn(command, self._home, self.log, environment)

    def ready(self) -> str | None:
        """Whether it can write, by the cluster health check of MinIO."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=3.0)
        try:
            connection.request("GET", "/minio/health/cluster")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return str(error)
        finally:
            connection.close()
        return None if status == http.client.OK else f"its health check answers {status}"

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=10.0)

    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def environment(self) -> dict[str, str]:
        return {
            "RAG_OUTBOX_OBJECT_STORE": self.url(),
            "RAG_OUTBOX_OBJECT_STORE_ACCESS_KEY": ACCESS_KEY,
            "RAG_OUTBOX_OBJECT_STORE_SECRET_KEY": self._state.password,
        }

    @property
    def _port(self) -> int:
        return self._state.record(self.name).ports["port"]
