"""A forwarder in front of a Kafka broker: clients stay behind it, although a broker tells them its own address."""

import socket
import struct
import threading
from contextlib import AbstractContextManager, suppress
from typing import Self

from tests.support.forwarder import Forwarder

_BUFFER_BYTES = 65_536


class KafkaForwarder(Forwarder):
    """Replaces the broker's port in its answers by its own. `bytes_per_second` slows down what clients send."""

    bytes_per_second: float | None = None

    @classmethod
    def before(cls, servers: str) -> AbstractContextManager[Self]:
        """In front of one broker, "host:port" as it tells its clients."""
        host, _, port = servers.partition(":")
        return cls.opened(int(port), host)

    @property
    def servers(self) -> str:
        return f"{self._target[0]}:{self.port}"

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        host, port = self._target
        theirs, ours = (host.encode() + struct.pack(">i", one) for one in (port, self.port))
        with suppress(OSError):
            is_client = source.getpeername()[1] != port
            while data := source.recv(_BUFFER_BYTES):
                self._audible.wait()
                if is_client and self.bytes_per_second is not None:
                    threading.Event().wait(len(data) / self.bytes_per_second)
                sink.sendall(data.replace(theirs, ours))
        self._audible.wait()
        self._cut(source, sink)
