"""What the process that reads files is asked and answers: frames of bytes on a socket, each after its length."""

import socket
import struct
import time
from dataclasses import dataclass

from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Extracted

_LENGTH = struct.Struct(">Q")
_BLOCK_BYTES = 1024 * 1024


class Closed(Exception):
    """Raised when the other side has closed the socket."""


class TooLong(Exception):
    """Raised when a frame is longer than the reader of the socket allows."""


@dataclass(frozen=True, slots=True)
class Request:
    """Read the bytes of the next frame."""

    content_type: str  # of the format
    sha256: str
    limits: ExtractLimits


@dataclass(frozen=True, slots=True)
class Reply:
    """Either `extracted`, or the reason why not. `is_last`: the process ends, another one must read the next file."""

    extracted: Extracted | None = None
    reason: str | None = None
    offset: int | None = None
    is_last: bool = False


def send(stream: socket.socket, frame: bytes, deadline: float | None = None) -> None:
    """Send a frame; raises TimeoutError at the deadline (of time.monotonic), and Closed."""
    try:
        _wait_until(stream, deadline)
        stream.sendall(_LENGTH.pack(len(frame)))
        for start in range(0, len(frame), _BLOCK_BYTES):
            _wait_until(stream, deadline)
            stream.sendall(memoryview(frame)[start : start + _BLOCK_BYTES])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(stream: socket.socket, most_bytes: int, deadline: float | None = None) -> bytearray:
    """Receive a frame of at most `most_bytes`; raises TimeoutError at the deadline, Closed and TooLong."""
    [length] = _LENGTH.unpack(_receive(stream, _LENGTH.size, deadline))
    if length > most_bytes:
        raise TooLong(f"{length:,} bytes")
    return _receive(stream, length, deadline)


def _receive(stream: socket.socket, length: int, deadline: float | None) -> bytearray:
    received = bytearray()
    while len(received) < length:
        _wait_until(stream, deadline)
        try:
            block = stream.recv(min(length - len(received), _BLOCK_BYTES))
        except ConnectionResetError as error:
            raise Closed from error
        if not block:
            raise Closed
        received += block
    return received


def _wait_until(stream: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        return
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    stream.settimeout(seconds)
