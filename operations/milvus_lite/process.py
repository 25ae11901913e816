"""Milvus Lite as a child process of the process that needs it.

Milvus Lite keeps a whole collection in memory and serves a folder to one process only. As a child process it keeps our
memory flat, uses another core, and other commands can share it. It ends when its parent ends, even by SIGKILL.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from operations.errors import OperationError
from schema.retry import Backoff, call_with_retry

_SERVER = "operations.milvus_lite.server"
_WAIT_SECONDS = 30.0
_BACKOFF = Backoff(0.2, 0.4)


class MilvusLiteUnavailable(OperationError):
    """Raised when Milvus Lite does not start; the message names its log file."""


class MilvusLiteBusy(MilvusLiteUnavailable):
    """Raised when another process holds the folder and neither shares it nor ends in time."""


@contextmanager
def own(folder: Path) -> Iterator[str]:
    """The URI of a Milvus Lite that lives as long as this context. Waits until no other process holds `folder`."""
    with _start(folder, shared=False) as uri:
        yield uri


@contextmanager
def share(folder: Path) -> Iterator[str]:
    """The URI of the Milvus Lite that already serves `folder`, or of a new one that lives as long as this context."""
    with _start(folder, shared=True) as uri:
        yield uri


@contextmanager
def _start(folder: Path, *, shared: bool) -> Iterator[str]:
    process, uri = call_with_retry(
        lambda: _start_once(folder, shared),
        retry_on=lambda error: isinstance(error, MilvusLiteBusy),
        backoff=_BACKOFF,
        seconds=_WAIT_SECONDS,
    )
    if process is None:
        yield uri
        return
    try:
        yield uri
    except BaseException:
        process.kill()  # only what its log on disk holds counts: see restarting_sink
        raise
    finally:
        _stop(process)


def endpoint_file(folder: Path) -> Path:
    """The file with the URI of the process that serves `folder`."""
    return folder.with_suffix(".endpoint.json")


def _start_once(folder: Path, shared: bool) -> tuple[subprocess.Popen[bytes] | None, str]:
    if shared and (uri := find_server(folder)):
        return None, uri
    log = folder.with_suffix(".log")
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", _SERVER, str(folder), str(endpoint_file(folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    import pymilvus  # noqa: F401  # the caller needs it next; importing takes as long as the server's start

    assert process.stdout is not None
    line = process.stdout.readline()
    answer = json.loads(line) if line else {}
    if "uri" in answer:
        return process, answer["uri"]
    _stop(process)
    if "locked" in answer:
        raise MilvusLiteBusy(f"another process holds the Milvus Lite folder {folder}")
    raise MilvusLiteUnavailable(f"Milvus Lite does not start on {folder}; its log: {log}")


def find_server(folder: Path) -> str | None:
    """The URI in the endpoint file, if a server answers there."""
    try:
        uri: str = json.loads(endpoint_file(folder).read_text())["uri"]
        socket.create_connection(("127.0.0.1", int(uri.rpartition(":")[2])), timeout=1).close()
    except (OSError, ValueError, KeyError):
        return None
    return uri


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input: it then writes everything to its files and ends. Wait for its end."""
    process.communicate()
