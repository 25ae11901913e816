"""A TCP port that forwards to a server, and after a failover to another one: the address that clients of MySQL keep."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BUFFER_BYTES = 65_536
_CONNECT_SECONDS = 5.0


class Switch:
    """Forwards 127.0.0.1:`port` to the `target` port of this machine."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    @classmethod
    @contextmanager
    def opened(cls, target: int) -> Iterator["Switch"]:
        switch = cls(target)
        accepting = threading.Thread(target=switch._accept, daemon=True)
        accepting.start()
        try:
            yield switch
        finally:
            switch._listener.shutdown(socket.SHUT_RDWR)
            switch._listener.close()
            switch._cut()
            accepting.join()

    def to(self, target: int) -> None:
        """From now on all connections go to another port; those that are open end."""
        with self._lock:
            self._target = target
        self._cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                target = self._target
            try:
                server = socket.create_connection(("127.0.0.1", target), _CONNECT_SECONDS)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                sink.sendall(data)
        self._close(source, sink)

    def _cut(self) -> None:
        with self._lock:
            ended = list(self._open)
        self._close(*ended)

    def _close(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
