"""Milvus Lite as a process of its own beside the one that needs it.

Milvus Lite keeps a whole collection in memory and takes one process a folder. Apart from ours it keeps our memory flat,
uses another core, and other commands can share it; it ends when its parent does, however that dies.
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
    """Raised when Milvus Lite does not start; the message names its log."""


class MilvusLiteBusy(MilvusLiteUnavailable):
    """Raised when another process keeps the folder, and does not share it or end in time."""


@contextmanager
def own(folder: Path) -> Iterator[str]:
    """The URI of a Milvus Lite on `folder` that lives as long as this context; waits for another one to end."""
    with _started(folder, shared=False) as uri:
        yield uri


@contextmanager
def share(folder: Path) -> Iterator[str]:
    """The URI of the Milvus Lite that serves `folder` already, or of one started for this context."""
    with _started(folder, shared=True) as uri:
        yield uri


@contextmanager
def _started(folder: Path, *, shared: bool) -> Iterator[str]:
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
        process.kill()  # see milvus_again: what it wrote down counts, not what it remembers
        raise
    finally:
        _stop(process)


def endpoint_file(folder: Path) -> Path:
    """Where the process that serves `folder` leaves its URI for others."""
    return folder.with_suffix(".endpoint.json")


def _start_once(folder: Path, shared: bool) -> tuple[subprocess.Popen[bytes] | None, str]:
    if shared and (uri := served(folder)):
        return None, uri
    log = folder.with_suffix(".log")
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", _SERVER, str(folder), str(endpoint_file(folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    import pymilvus  # noqa: F401  # what the caller needs next takes as long as the server's start

    assert process.stdout is not None
    line = process.stdout.readline()
    answer = json.loads(line) if line else {}
    if "uri" in answer:
        return process, answer["uri"]
    _stop(process)
    if "locked" in answer:
        raise MilvusLiteBusy(f"another process keeps the Milvus Lite folder {folder}")
    raise MilvusLiteUnavailable(f"Milvus Lite does not start on {folder}; its log: {log}")


def served(folder: Path) -> str | None:
    """The URI that a server left behind, if something answers there."""
    try:
        uri: str = json.loads(endpoint_file(folder).read_text())["uri"]
        socket.create_connection(("127.0.0.1", int(uri.rpartition(":")[2])), timeout=1).close()
    except (OSError, ValueError, KeyError):
        return None
    return uri


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which ends it after it wrote all to its files; wait until it ended."""
    process.communicate()
