"""Serves the console in a thread of its own, so that it can stand next to a working relay."""

import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from litestar.types import ASGIApp

from operations.errors import OperationError, UsageError
from operations.settings import PREFIX
from operations.web.console.access import Access, is_loopback
from operations.web.console.app import make_app
from operations.web.console.checks import Checks
from operations.web.console.console import Console
from operations.web.console.live import Sampler
from operations.web.console.sessions import Sessions
from operations.wiring import System

if TYPE_CHECKING:
    from operations.monitoring.kafka_backlog import KafkaBacklog

PORT = 9480
HOST = "127.0.0.1"
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_REQUESTS = 100  # at a time


@contextmanager
def serve_console(system: System, *, host: str = HOST, port: int = PORT, names: Collection[str] = ()) -> Iterator[str]:
    """Serve until the context ends. Yields the address; `port` 0 takes a free one.

    `names` are host names of a reverse proxy. Raises UsageError for another address than a loopback one without a
    token, OperationError for a port that cannot be used.
    """
    token = system.settings.console_token_sha256
    access = Access(is_loopback(host), frozenset(name.lower() for name in names))
    if token is None and (names or not access.listens_on_loopback):
        option = "--allowed-host" if access.listens_on_loopback else "--host"
        raise UsageError(
            f"{option}: other machines could read every document: set {PREFIX}CONSOLE_TOKEN_SHA256 "
            "(rag-outbox serve --new-token makes one)"
        )
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    sampler, checks = Sampler(system, _kafka_of(system)), Checks()
    console = Console(system, sampler, checks, Sessions(token), access, f"rag_outbox_session_{port}")
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    sampler.look()  # so that the first page shows something
    sampler.start()
    try:
        with run_app(make_app(console), listener):
            yield address
    finally:
        sampler.stop()
        checks.stop(_STOP_SECONDS)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@contextmanager
def run_app(app: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Serve on a socket that listens, until the context ends."""
    config = uvicorn.Config(
        app,
        access_log=False,
        http="h11",
        limit_concurrency=_REQUESTS,
        log_config=None,
        proxy_headers=False,  # what a proxy says of a client is not believed, see access.py
        server_header=False,
        timeout_graceful_shutdown=round(_STOP_SECONDS),
        ws="none",
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="console", daemon=True)
    thread.start()
    try:
        if not server.has_started.wait(_START_SECONDS):
            raise OperationError("the console did not start; its reason is above")
        yield
    finally:
        server.should_exit = True
        thread.join(2 * _STOP_SECONDS)  # a page that waits for a store must not keep the process


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OperationError(f"cannot listen on {host} port {port}: {error.strerror}; choose another port") from error


def _kafka_of(system: System) -> "KafkaBacklog | None":
    kafka = system.settings.kafka
    if kafka is None:
        return None
    from operations.monitoring.kafka_backlog import KafkaBacklog
    from operations.sinks import names

    return KafkaBacklog(kafka, system.names, system.identity.lanes, lambda: names(system))
