"""Starts servers, shows their state, stops them. Each may be repeated: it changes only what is not as wanted."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from compose.native import ports, process
from compose.native.errors import ServerError
from compose.native.output import say
from compose.native.process import Process
from compose.native.server import Fetched, Server
from compose.native.state import State, write_private
from compose.native.tools import tail

T = TypeVar("T")
POLL_SECONDS = 0.1


def fetch(servers: Sequence[Fetched]) -> list[ServerError]:
    """Fill the cache for all of them, concurrently. Returns the errors."""
    return _at_once(_fetch, servers)


def up(servers: Sequence[Server], state: State, given_ports: Mapping[str, int]) -> list[ServerError]:
    """Fetch and start all servers, and wait until they are ready. One failure stops no other. Returns the errors."""
    _reserve_ports(servers, state, given_ports)
    return _at_once(lambda server: _bring_up(server, state), servers)


def stop(servers: Sequence[Server], state: State) -> list[ServerError]:
    """Stop the servers that run. Returns the errors."""
    return _at_once(lambda server: _end(server, state), servers)


def status(servers: Sequence[Server], state: State) -> list[dict[str, Any]]:
    """A row per server; `state` is running, not answering, dead (not ended by `stop`) or stopped."""
    return [_row(server, state) for server in servers]


def write_environment(servers: Sequence[Server], state: State, path: Path) -> str:
    """Write the variables of all running servers, for `set -a; . FILE` or Docker's --env-file. Returns them."""
    lines = ""
    for server in servers:
        if state.running(server.name):
            lines += "".join(f"{key}={value}\n" for key, value in server.environment().items())
    write_private(path, lines.encode())
    state.env_file = path
    return lines


def _at_once(work: Callable[[T], ServerError | None], servers: Sequence[T]) -> list[ServerError]:
    pool = ThreadPoolExecutor(len(servers))
    try:
        return [error for error in pool.map(work, servers) if error is not None]
    finally:
        pool.shutdown(wait=False)  # Ctrl-C does not wait until servers are ready


def _reserve_ports(servers: Sequence[Server], state: State, given: Mapping[str, int]) -> None:
    """Give each server that does not run its ports, before any starts: some need the ports of others."""
    taken = {
        port for server in servers for port in state.record(server.name).ports.values() if state.running(server.name)
    }
    for server in servers:
        record = state.record(server.name)
        if state.running(server.name):
            port = record.ports[server.port_names[0]]
            if given.get(server.name, port) != port:
                raise ServerError(f"{server.name}: already runs on port {port}; stop it first")
            continue
        wanted = {server.port_names[0]: given.get(server.name)}
        record.ports = {
            name: ports.choose(server.name, wanted.get(name), record.ports.get(name), taken)
            for name in server.port_names
        }
    state.save()


def _fetch(server: Fetched) -> ServerError | None:
    try:
        server.fetch()
    except (ServerError, OSError) as error:
        say(server.name, "failed")
        return error if isinstance(error, ServerError) else ServerError(f"{server.name}: {error}")
    return None


def _bring_up(server: Server, state: State) -> ServerError | None:
    record = state.record(server.name)
    try:
        running = state.running(server.name)
        if running is None:
            server.fetch()
            say(server.name, "starting")
            began = time.monotonic()
            running = record.process = server.start()
            record.version = server.version
            state.save()
            _wait_until_ready(server, running)
            say(server.name, f"ready after {time.monotonic() - began:.1f} s: {_place(server, running)}")
        else:
            _wait_until_ready(server, running)
            say(server.name, f"already running: {_place(server, running)}")
    except (ServerError, OSError) as error:
        say(server.name, "failed")
        return error if isinstance(error, ServerError) else ServerError(f"{server.name}: {error}")
    return None


def _wait_until_ready(server: Server, running: Process) -> None:
    deadline = time.monotonic() + server.start_seconds
    while True:
        obstacle = server.ready()
        if not process.alive(running):
            raise ServerError(
                f"{server.name}: ended while starting; its log {server.log} ends with\n{tail(server.log)}"
            )
        if obstacle is None:
            return
        if time.monotonic() > deadline:
            raise ServerError(
                f"{server.name}: runs as process {running.pid} but is not ready after {server.start_seconds:.0f} s "
                f"({obstacle}); stop it and try again; its log {server.log} ends with\n{tail(server.log)}"
            )
        time.sleep(POLL_SECONDS)


def _end(server: Server, state: State) -> ServerError | None:
    record = state.record(server.name)
    running = state.running(server.name)
    try:
        if running is None:
            say(server.name, "does not run")
        else:
            began = time.monotonic()
            how = "stopped" if server.stop(running) else "killed, as it did not stop,"
            say(server.name, f"{how} after {time.monotonic() - began:.1f} s")
    except ServerError as error:
        return error
    record.process = None
    state.save()
    return None


def _row(server: Server, state: State) -> dict[str, Any]:
    record = state.record(server.name)
    running = state.running(server.name)
    if running is not None:
        obstacle = server.ready()
        condition = "running" if obstacle is None else "not answering"
    else:
        condition = "stopped" if record.process is None else "dead"
    return {
        "name": server.name,
        "state": condition,
        "pid": running.pid if running else None,
        "port": record.ports[server.port_names[0]] if running else None,
        "url": server.url() if running else None,
        "version": record.version or server.version,
        "log": str(server.log),
    }


def _place(server: Server, running: Process) -> str:
    return f"{server.url()} (process {running.pid})"
