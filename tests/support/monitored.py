"""A whole system under observation: relay, consumers and monitor as processes, and a Prometheus that scrapes them."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from compose.native.prometheus import RULES
from tests.support import prometheus
from tests.support.commands import Folder
from tests.support.corpus import DIMENSION
from tests.support.prometheus import Prometheus, free_port
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

COMMANDS = {
    "relay": ("relay",),
    "milvus": ("consume", "milvus"),
    "minio": ("consume", "minio"),
    "monitor": ("monitor",),
}
_START_SECONDS = 90.0  # on a busy machine


@dataclass(frozen=True)
class Monitored:
    folder: Folder
    services: Services
    prometheus: Prometheus
    ports: Mapping[str, int]  # of /metrics, by process
    processes: dict[str, Process] = field(default_factory=dict)
    _number: Iterator[int] = field(default_factory=count)

    def start(self, name: str, **settings: str) -> None:
        """Start a process on the port that Prometheus scrapes, and wait until it is ready and scraped."""
        port = self.ports[name]
        own = {"metrics_port": str(port), "kafka_session_timeout_ms": "6000"}
        self.processes[name] = self.services.start(*COMMANDS[name], **own, **settings)
        wait_for(lambda: prometheus.answers(port, "/readyz"), f"{name} to be ready", timeout_seconds=_START_SECONDS)
        up = f'up{{instance="{prometheus.HOST}:{port}"}}'
        wait_for(lambda: self.prometheus.value(up) == 1, f"{name} to be scraped")

    def start_all(self, **settings: Mapping[str, str]) -> None:
        """Start one process of each kind, with its `settings`."""
        with ThreadPoolExecutor(len(COMMANDS)) as pool:
            for started in [pool.submit(self.start, name, **settings.get(name, {})) for name in COMMANDS]:
                started.result()

    def write(self, documents: int) -> None:
        """Write new documents of one chunk and a small file."""
        lines = [
            {
                "doc_id": f"d{next(self._number)}",
                "title": "title",
                "source_type": "text",
                "chunks": [{"content": "some text", "vector": [1.0] * DIMENSION}],
                "file": {"base64": "eA==", "name": "notes.txt"},
            }
            for _ in range(documents)
        ]
        outcome = self.folder.run("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())
        assert outcome.status == 0, outcome

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Some documents again and again, until the context ends."""
        stop = threading.Event()

        def go_on() -> None:
            while not stop.is_set():
                self.write(5)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(go_on)
            try:
                yield
            finally:
                stop.set()
            writing.result()


@contextmanager
def monitored(folder: Folder, more: Mapping[str, Sequence[int]], rules: Path = RULES) -> Iterator[Monitored]:
    """`more` are ports of exporters, by job. No process of the system runs yet."""
    ports = {name: free_port() for name in COMMANDS}
    with (
        services(folder) as some,
        prometheus.running(folder.path, {"rag-outbox": list(ports.values()), **more}, rules) as server,
    ):
        yield Monitored(folder, some, server, ports)
