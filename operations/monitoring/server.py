"""Serves /metrics, /healthz and /readyz of a process over HTTP."""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from operations.errors import OperationError
from operations.monitoring.health import Health
from operations.settings import PREFIX

_log = logging.getLogger(__name__)

FIRST_PORT = 9470
_PORTS = 10  # that are tried when no port is given: several processes of one machine need one each


class _QuietHandler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a whole request, so that a silent client holds no thread for ever

    def log_message(self, format: str, *arguments: Any) -> None:  # the name of the base class
        """Requests are not logged: Prometheus makes one every few seconds."""


class _Server(ThreadingWSGIServer):
    allow_reuse_address = True
    allow_reuse_port = False  # two processes must not share a port


@contextmanager
def serve(registry: CollectorRegistry, health: Health, host: str, port: int | None) -> Iterator[None]:
    """Serve until the context ends. `port` 0 serves nothing; None takes the first free one, and needs none.

    Raises OperationError when the given port cannot be used.
    """
    server = None if port == 0 else _listen(_application(registry, health), host, port)
    if server is None:
        yield
        return
    address = f"http://{host}:{server.server_port}"
    _log.info("serving metrics=%s/metrics health=%s/readyz", address, address)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    health.start()
    try:
        yield
    finally:
        health.stop()
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(application: Any, host: str, port: int | None) -> ThreadingWSGIServer | None:
    reason = ""
    for one in range(FIRST_PORT, FIRST_PORT + _PORTS) if port is None else [port]:
        try:
            return make_server(host, one, application, _Server, _QuietHandler)
        except OSError as error:
            reason = error.strerror or str(error)
    if port is not None:
        raise OperationError(f"{PREFIX}METRICS_PORT: cannot listen on port {port} of {host}: {reason}")
    _log.warning("no_metrics host=%s reason=no free port from %d on: %s", host, FIRST_PORT, reason)
    return None


def _application(registry: CollectorRegistry, health: Health) -> Any:
    metrics = make_wsgi_app(registry)

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            return metrics(environment, start)  # type: ignore[no-any-return]
        if path == "/healthz":
            return _json(start, health.is_live, {"live": health.is_live})
        if path == "/readyz":
            report = health.report()
            is_ready = not report.problems
            body = {
                "ready": is_ready,
                "problems": dict(report.problems),
                "seconds_since_progress": report.seconds_since_progress,
            }
            return _json(start, is_ready, body)
        start(_line(HTTPStatus.NOT_FOUND), [("Content-Type", "text/plain; charset=utf-8")])
        return [b"/metrics, /healthz, /readyz\n"]

    return answer


def _json(start: Callable[..., Any], is_well: bool, body: dict[str, Any]) -> Iterable[bytes]:
    status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
    start(_line(status), [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"
