"""Milvus standalone, from its wheel: it carries the programs as data, so any Python version can unpack them."""

import http.client
import importlib.util
import json
import lzma
import re
import sys
import zipfile
from pathlib import Path

from compose.native import process, tools, versions
from compose.native.cache import Cache
from compose.native.errors import ServerError, Unavailable
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State

KEY = f"milvus-{versions.MILVUS}"
DATA = "milvus/data/"  # in the wheel
FIELD = re.compile(r"\{\{\s*(?P<name>\w+)(\(\w+\))?(:\s*(?P<default>[^}]*?))?\s*\}\}")

# Two absolute folders are compiled into the program; they belong to the first user who ran it, and a lock in them lets
# only one Milvus run per machine. The replacement has the same length and is relative to the working folder.
RUNTIME_FOLDERS = b"/run/milvus/tmp/milvus/v2/members"
OWN_FOLDERS = b"run/milvus/tmp/milvus//v2/members"

# Settings that replace those of the configuration, in any section.
SETTINGS = {
    "ip": HOST,  # its parts find each other by it; the default depends on the network of the machine
    "gracefulStopTimeout": "1",  # seconds per part after SIGTERM; the default is half an hour
    "enableIndex": "false",  # of growing segments: a search scans their rows instead
    "sealProportion": "0.5",  # the fill of a segment at which it is indexed; at 0.25, merged segments are indexed again
    "ttl": "10",  # seconds until the parts of a killed server expire, so that the next start continues
}

ETCD = """name: default
listen-client-urls: http://{host}:{etcd}
advertise-client-urls: http://{host}:{etcd}
listen-peer-urls: http://{host}:{etcd_peer}
initial-advertise-peer-urls: http://{host}:{etcd_peer}
initial-cluster: default=http://{host}:{etcd_peer}
"""


class Milvus:
    """One process that contains etcd, the message queue and the storage."""

    name = "milvus"
    version = versions.MILVUS
    port_names: tuple[str, ...] = (
        "proxy",
        "metrics",
        "etcd",
        "etcd_peer",
        "proxy_internal",
        "root_coord",
        "query_coord",
        "query_node",
        "index_coord",
        "index_node",
        "data_coord",
        "data_node",
    )
    start_seconds = 120.0

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._home = state.folder / self.name
        self.log = self._home / "milvus.log"

    def fetch(self) -> None:
        tools.need_machine(self.name, "x86_64")
        self._cache.fill_once(self.name, KEY, self._fill)

    def _fill(self, part: Path) -> None:
        if importlib.util.find_spec("pip") is None:
            raise Unavailable(f"{self.name}: {sys.executable} has no pip; install it (python -m ensurepip)")
        command: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        options: list[str | Path] = ["--no-deps", "--only-binary=:all:", "--dest", part, f"milvus=={self.version}"]
        tools.run(self.name, [*command, *options], self._cache.root / f"{KEY}.log")
        [wheel] = part.glob("*.whl")
        (part / "bin").mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if entry.startswith(f"{DATA}bin/"):
                    program = part / "bin" / Path(entry).name.removesuffix(".lzma")
                    program.write_bytes(lzma.decompress(archive.read(entry)).replace(RUNTIME_FOLDERS, OWN_FOLDERS))
                    program.chmod(0o755)
            for entry in ("config.yaml.template", "glog.conf"):
                (part / entry).write_bytes(archive.read(DATA + entry))
        wheel.unlink()

    def start(self) -> Process:
        programs = self._cache.folder(KEY) / "bin"
        configs = self._home / "configs"  # Milvus reads them relative to its working folder
        for folder in (configs, self._home / "logs", self._home / "data"):
            folder.mkdir(parents=True, exist_ok=True)
        template = self._cache.folder(KEY) / "config.yaml.template"
        (configs / "milvus.yaml").write_text(self._configuration(template.read_text()))
        (configs / "glog.conf").write_bytes((self._cache.folder(KEY) / "glog.conf").read_bytes())
        (configs / "etcd.yaml").write_text(ETCD.format(host=HOST, **self._ports))
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "LD_LIBRARY_PATH": str(programs),
            "METRICS_PORT": str(self._ports["metrics"]),
        }
        command: list[str | Path] = [programs / "milvus", "run", "standalone"]
        return process.spawn(command, self._home, self.log, environment)

    def ready(self) -> str | None:
        """Lists the collections through its proxy; the HTTP API has the same port as gRPC."""
        connection = http.client.HTTPConnection(HOST, self._ports["proxy"], timeout=5.0)
        try:
            connection.request("GET", "/v1/vector/collections")
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return str(error)
        finally:
            connection.close()
        return None if answer.get("code") == http.client.OK else str(answer)

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=20.0)

    def url(self) -> str:
        return f"http://{HOST}:{self._ports['proxy']}"

    def environment(self) -> dict[str, str]:
        return {"RAG_OUTBOX_MILVUS_URI": self.url()}

    @property
    def _ports(self) -> dict[str, int]:
        return self._state.record(self.name).ports

    def _configuration(self, template: str) -> str:
        """The configuration in the wheel with our ports and folders, all on the loopback interface."""
        data = self._home / "data"
        values = {
            **{f"{name}_port": str(port) for name, port in self._ports.items()},
            "etcd_log_path": str(self._home / "logs" / "etcd.log"),
            "etcd_data_dir": str(data / "etcd.data"),
            "local_storage_dir": str(data),
            "rocksmq_data_dir": str(data / "rocksmq"),
            "system_log_path": str(self._home / "logs"),
        }

        def fill(field: re.Match[str]) -> str:
            value = values.get(field["name"], field["default"])
            if value is None:
                raise ServerError(f"{self.name}: its configuration needs {field['name']}, which has no value")
            return value

        text = FIELD.sub(fill, template)
        for key, value in SETTINGS.items():
            text = re.sub(rf"^( +{key}:)[^\n]*", rf"\1 {value}", text, flags=re.MULTILINE)
        return text.replace("etcd:\n", f"etcd:\n  config:\n    path: {self._home}/configs/etcd.yaml\n", 1)
