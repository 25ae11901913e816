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

    def read(self, raw: bytes, each: Format, sha256: str) -> Extracted:
        """Read the bytes of a file of a format; raises Unreadable or Undecodable."""
        stream = self._running()
        deadline = time.monotonic() + self._limits.seconds
        request = msgspec.msgpack.encode(Request(each.content_type, sha256, self._limits))
        try:
            wire.send(stream, request, deadline)
            wire.send(stream, raw, deadline)
            frame = wire.receive(stream, self._limits.result_bytes + _REPLY_BYTES, deadline)
            reply = self._decoder.decode(frame)
        except TimeoutError as error:
            self.kill()
            raise Unreadable(f"it took longer than {self._limits.seconds:g} s to read, which is the limit") from error
        except Closed as error:
            raise Unreadable(self._describe_end()) from error
        except (wire.TooLong, msgspec.MsgspecError) as error:
            self.kill()
            raise Unreadable(f"cannot be read: the reading process answered {error}") from error
        except BaseException:  # an interrupt: the child still works for it
            self.kill()
            raise
        if reply.is_last:
            self.close()
        return _result(reply)

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
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
        with theirs:
            try:
                self._process = subprocess.Popen(
                    # -P: no module of the current folder; -B: it may write no file
                    [sys.executable, "-P", "-B", "-m", _MODULE, str(theirs.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | threads,
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


def _result(reply: Reply) -> Extracted:
    if reply.extracted is not None:
        return reply.extracted
    reason = reply.reason or "the reading process gave no reason"
    if reply.offset is not None:
        raise Undecodable(reason, reply.offset)
    raise Unreadable(reason)
