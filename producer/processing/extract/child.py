"""The process that reads files for another one: `python -m producer.processing.extract.child FD`.

It has limits of memory and processor time, reaches no network, starts no process and writes no file. It ends with the
process that started it, even if that one is killed while a file is being read.
"""

import os
import resource
import signal
import socket
import sys
import threading
from typing import Any

import msgspec

from producer.processing.extract import wire
from producer.processing.extract.encodings import Undecodable
from producer.processing.extract.formats import FORMATS
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Unreadable
from producer.processing.extract.reading import read_format
from producer.processing.extract.wire import Closed, Reply, Request

_THREADS = 4  # that a library may keep busy: processor time is that much more than the time that passes
_REQUEST_BYTES = 1024 * 1024
_FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.")
_ALLOWED = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_BY_TYPE = {each.content_type: each for each in FORMATS}


def main() -> None:
    """Answer requests on the socket with the given number until it is closed."""
    stream = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.addaudithook(_refuse)
    decoder = msgspec.msgpack.Decoder(Request)
    while True:
        try:
            request = decoder.decode(wire.receive(stream, _REQUEST_BYTES))
            raw = wire.receive(stream, request.limits.file_bytes)
            reply = _answer(request, bytes(raw))
            wire.send(stream, _encode(reply, request.limits))
        except Closed:
            return
        if reply.is_last:
            return


def _answer(request: Request, raw: bytes) -> Reply:
    limits = request.limits
    _limit(limits)
    try:
        return Reply(read_format(raw, _BY_TYPE[request.content_type], limits, request.sha256))
    except Undecodable as error:
        return Reply(reason=str(error), offset=error.offset)
    except Unreadable as error:
        return Reply(reason=str(error))
    except MemoryError:
        return Reply(reason=_describe_memory(limits), is_last=True)
    except Exception as error:  # noqa: BLE001  # a library that stumbles over a hostile file raises anything
        return Reply(
            reason=f"cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:300]}", is_last=True
        )


def _encode(reply: Reply, limits: ExtractLimits) -> bytes:
    try:
        encoded = msgspec.msgpack.encode(reply)
    except MemoryError:
        return msgspec.msgpack.encode(Reply(reason=_describe_memory(limits), is_last=True))
    if len(encoded) > limits.result_bytes:
        reason = (
            f"too much in it: {len(encoded):,} bytes of text, tables and images, the limit is {limits.result_bytes:,}"
        )
        return msgspec.msgpack.encode(Reply(reason=reason))
    return encoded


def _limit(limits: ExtractLimits) -> None:
    """Limit the memory of the process, and the processor time of this file: it ends a loop that nobody waits for."""
    _lower(resource.RLIMIT_AS, limits.memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + _THREADS * limits.seconds) + 1)


def _lower(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _describe_memory(limits: ExtractLimits) -> str:
    return f"it needs more than {limits.memory_bytes // (1024 * 1024):,} MiB of memory, which is the limit"


def _end_with_parent() -> None:
    """The other process holds the other end of our standard input; when it ends, so do we."""
    sys.stdin.buffer.read()
    os._exit(1)


def _refuse(event: str, details: tuple[Any, ...]) -> None:
    """Refuse what reading a file never needs: the network, other processes, and changes of files."""
    is_write = event == "open" and isinstance(details[2], int) and bool(details[2] & _WRITING)
    if is_write or (event.startswith(_FORBIDDEN) and event not in _ALLOWED):
        raise PermissionError(f"{event} is not allowed while a file is read")


if __name__ == "__main__":
    main()
