"""Reads files in a child process, so that a damaged or hostile file ends that process and nothing else."""

import os
import signal
import socket
import subprocess
import sys
import time

import msgspec

from producer.processing.extract import wire
from producer.processing.extract.encodings import Undecodable
from producer.processing.extract.formats import Format
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Extracted, Unreadable
from producer.processing.extract.wire import Closed, Reply, Request

_MODULE = "producer.processing.extract.child"
_FILES_PER_PROCESS = 500  # then a new one: libraries may keep memory
_END_SECONDS = 5.0
_KEPT = ("COVERAGE_", "HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "PATH", "PYTHON", "TMPDIR", "TZ")  # of the environment
_REPLY_BYTES = 1024 * 1024  # of a reply besides its result


class ReaderProcess:
    """The child process, started at the first file and again after one that it did not survive. Not thread-safe."""

    def __init__(self, limits: ExtractLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: socket.socket | None = None
        self._files = 0
        self._decoder = msgspec.msgpack.Decoder(Reply)

    @property
    def pid(self) -> int | None:
        """Process id of the child; None if there is none."""
        return None if self._process is None else self._process.pid

    def read(self, raw: bytes, file_format: Format, sha256: str) -> Extracted:
        """Read the bytes of a file of a format; raises Unreadable or Undecodable.

        A child that ends is blamed on the file only if it read no other: else a new one reads the file again.
        """
        while True:
            stream = self._running()
            is_fresh = self._files == 1
            try:
                reply = self._ask(stream, raw, file_format, sha256)
            except Closed as error:
                reason = self._describe_end()
                if is_fresh:
                    raise Unreadable(reason) from error
                continue
            if reply.is_last:
                self.close()
            if is_fresh or not reply.is_last:
                return _result(reply)

    def _ask(self, stream: socket.socket, raw: bytes, file_format: Format, sha256: str) -> Reply:
        """The child's answer; raises Closed if it ended, and Unreadable if it took too long."""
        deadline = time.monotonic() + self._limits.seconds
        request = msgspec.msgpack.encode(Request(file_format.content_type, sha256, self._limits))
        try:
            wire.send(stream, request, deadline)
            wire.send(stream, raw, deadline)
            return self._decoder.decode(wire.receive(stream, self._limits.result_bytes + _REPLY_BYTES, deadline))
        except TimeoutError as error:
            self.kill()
            raise Unreadable(f"it took longer than {self._limits.seconds:g} s to read, which is the limit") from error
        except Closed:
            raise
        except (wire.TooLong, msgspec.MsgspecError) as error:
            self.kill()
            raise Unreadable(f"cannot be read: the reading process answered {error}") from error
        except BaseException:  # an interrupt: the child still works for it
            self.kill()
            raise

    def close(self) -> None:
        """End the child, if it runs."""
        process, self._process = self._process, None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the child at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
        self.close()

    def _running(self) -> socket.socket:
        if self._files >= _FILES_PER_PROCESS or (self._process is not None and self._process.poll() is not None):
            self.close()
        self._files += 1
        if self._stream is None:
            self._stream = self._start()
        return self._stream

    def _start(self) -> socket.socket:
        self._files = 1
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -P: no module of the current folder; -B: it may write no file
                    [sys.executable, "-P", "-B", "-m", _MODULE, str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for this process, which ends the child
                )
            except BaseException:
                ours.close()
                raise
        return ours

    def _describe_end(self) -> str:
        """Why the child ended while it read; the next file gets a new one."""
        process = self._process
        self.close()
        status = None if process is None else process.returncode
        if status is None or status >= 0:
            return f"the process that read it ended with status {status}"
        memory = f"{self._limits.memory_bytes // (1024 * 1024):,} MiB of memory"
        name = signal.Signals(-status).name
        return f"the process that read it was ended by {name}: the file is damaged, or needs more than {memory}"


def _environment() -> dict[str, str]:
    """What the child needs of ours: no password is in it."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    return kept | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")


def _result(reply: Reply) -> Extracted:
    if reply.extracted is not None:
        return reply.extracted
    reason = reply.reason or "the reading process gave no reason"
    if reply.offset is not None:
        raise Undecodable(reason, reply.offset)
    raise Unreadable(reason)
