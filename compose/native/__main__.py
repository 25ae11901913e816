"""The command line: up, status, stop, fetch.

Exit status: 0 done, 1 failed, 2 wrong usage, 4 impossible on this machine, 130 interrupted.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from compose.native import lock, supervise
from compose.native.cache import VARIABLE, Cache
from compose.native.chromium import NAME, Chromium
from compose.native.errors import ServerError, Unavailable
from compose.native.exporters import MysqldExporter, NodeExporter
from compose.native.kafka import Kafka
from compose.native.milvus import Milvus
from compose.native.minio import Minio
from compose.native.mysql import MySQL, Replica
from compose.native.output import result, say
from compose.native.prometheus import Prometheus
from compose.native.server import Fetched, Server
from compose.native.state import State

DONE, FAILED, UNAVAILABLE, INTERRUPTED = 0, 1, 4, 130  # argparse ends with 2 on wrong usage
DEFAULT = (MySQL.name, Kafka.name, Minio.name, Milvus.name)
MONITORING = (Prometheus.name, MysqldExporter.name, NodeExporter.name)
NAMES = (*DEFAULT, Replica.name, *MONITORING)
COLUMNS = ("name", "state", "pid", "port", "url", "version", "log")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    data = options.data.absolute()
    try:
        if options.action == "status":
            return _status(data, as_json=options.json)
        if options.action == "fetch":
            names = options.names or (*DEFAULT, *MONITORING, NAME)
            wanted: list[Fetched] = [*_servers(State(data), names).values()]
            if NAME in names:
                wanted.append(Chromium(Cache.of_this_user()))
            return _report(supervise.fetch(wanted))
        with lock.hold(data / "lock", "servers", "another up or stop"):
            state = State(data)
            return _up(state, options) if options.action == "up" else _stop(state, options.names)
    except (ServerError, OSError) as error:
        say("servers", str(error))
        return FAILED
    except KeyboardInterrupt:
        say("servers", "interrupted; servers that were started still run: see status and stop")
        os._exit(INTERRUPTED)  # not waiting for the threads


def _up(state: State, options: argparse.Namespace) -> int:
    names = [*(options.names or DEFAULT)]
    if options.replica and Replica.name not in names:
        names.append(Replica.name)
    if Replica.name in names and MySQL.name not in names:
        names.insert(0, MySQL.name)  # the replica follows it
    errors = supervise.up(list(_servers(state, names).values()), state, dict(options.port))
    path = options.env_file or state.env_file or state.folder / "servers.env"
    result(supervise.write_environment(list(_servers(state).values()), state, path.absolute()).rstrip())
    say("servers", f"environment written to {path.absolute()}")
    return _report(errors)


def _stop(state: State, names: Sequence[str]) -> int:
    errors = supervise.stop(list(_servers(state, names).values()), state)
    every = list(_servers(state).values())
    if state.env_file is not None:  # it must not name servers that no longer run
        if any(state.running(server.name) for server in every):
            supervise.write_environment(every, state, state.env_file)
        else:
            state.env_file.unlink(missing_ok=True)
            state.env_file = None
    return _report(errors)


def _status(data: Path, *, as_json: bool) -> int:
    state = State(data)
    shown = [name for name in NAMES if name in DEFAULT or state.record(name).version]
    rows = supervise.status(list(_servers(state, shown).values()), state)
    if as_json:
        result(json.dumps({"servers": rows}))
    else:
        table = [
            COLUMNS,
            *(tuple("–" if row[column] is None else str(row[column]) for column in COLUMNS) for row in rows),
        ]
        widths = [max(len(line[index]) for line in table) for index in range(len(COLUMNS))]
        for line in table:
            result("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return DONE if all(row["state"] in {"running", "stopped"} for row in rows) else FAILED


def _report(errors: Sequence[ServerError]) -> int:
    for error in errors:
        say("servers", str(error))
    if any(isinstance(error, Unavailable) for error in errors):
        say("servers", "instead, use Docker: docker compose -f compose/compose.yaml up")
    if not errors:
        return DONE
    return UNAVAILABLE if all(isinstance(error, Unavailable) for error in errors) else FAILED


def _servers(state: State, names: Sequence[str] = ()) -> dict[str, Server]:
    """The servers with these names, or all servers, by name."""
    cache = Cache.of_this_user()
    every: list[Server] = [
        kind(cache, state) for kind in (MySQL, Replica, Kafka, Minio, Milvus, Prometheus, MysqldExporter, NodeExporter)
    ]
    return {server.name: server for server in every if not names or server.name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compose.native",
        description="The servers of the compose stack without Docker.",
        epilog=f"Fetched programs are kept in {Cache.of_this_user().root} ({VARIABLE} names another folder).",
    )
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument(
        "--data", type=Path, default=Path(".servers"), metavar="DIR", help="folder of data, logs and state [.servers]"
    )
    some = argparse.ArgumentParser(add_help=False)
    some.add_argument(
        "--only", dest="names", type=_names, default=(), metavar="NAME,…", help=f"only these of {', '.join(NAMES)}"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", parents=[every, some], help="fetch once, start what does not run, wait until ready")
    up.add_argument("--replica", action="store_true", help="also start a MySQL replica")
    up.add_argument(
        "--port", type=_port, action="append", default=[], metavar="NAME=PORT", help="the port of a server [a free one]"
    )
    up.add_argument("--env-file", type=Path, metavar="FILE", help="file for the variables [DIR/servers.env]")
    status = actions.add_parser("status", parents=[every], help="show which servers run, and where")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    actions.add_parser("stop", parents=[every, some], help="stop the servers; data and logs stay")
    fetch = actions.add_parser("fetch", parents=[every], help=f"download the programs only, and {NAME} for tests")
    fetch.add_argument(
        "--only",
        dest="names",
        type=lambda text: _names(text, (*NAMES, NAME)),
        default=(),
        metavar="NAME,…",
        help=f"only these of {', '.join((*NAMES, NAME))}",
    )
    return parser


def _names(text: str, known: Sequence[str] = NAMES) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown server {', '.join(unknown)}; the servers are {', '.join(known)}")
    return names


def _port(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    if name not in NAMES or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PORT with a NAME of {', '.join(NAMES)}")
    return name, int(port)


if __name__ == "__main__":
    sys.exit(main())
