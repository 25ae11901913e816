"""A TCP port in front of a server, which a test can silence as if the host had vanished: no answer, and no reset."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self
from urllib.parse import urlsplit

_BUFFER_BYTES = 65_536
_CONNECT_SECONDS = 5.0


class Forwarder:
    """Forwards 127.0.0.1:`port` to `host`:`target`.

    While silent it accepts connections and forwards nothing; connections stay open. What was sent in that time arrives
    after `heal`, even from a client that has closed its connection: the worst that a real network does.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target)
        self._audible = threading.Event()
        self._audible.set()
        self._held: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    @classmethod
    @contextmanager
    def opened(cls, target: int, host: str = "127.0.0.1") -> Iterator[Self]:
        forwarder = cls(target, host)
        accepting = threading.Thread(target=forwarder._accept, daemon=True)
        accepting.start()
        try:
            yield forwarder
        finally:
            forwarder._close()
            accepting.join()

    def silence(self) -> None:
        """From now on no byte passes, in either direction."""
        self._held.clear()
        self._audible.clear()

    @property
    def held(self) -> int:
        """How many connections were made, or have sent something, since `silence`: their clients wait."""
        return len(self._held)

    def heal(self) -> None:
        """Forward again, first what was held back."""
        self._audible.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if not self._audible.is_set():
            self._held.add(client)
        self._audible.wait()
        try:
            server = socket.create_connection(self._target, _CONNECT_SECONDS)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self._lock:
            self._open |= {client, server}
            is_closed = self._is_closed
        if is_closed:
            self._cut(client, server)
            return
        threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
        self._forward(client, server)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER_BYTES):
                if not self._audible.is_set():
                    self._held.add(source)
                self._audible.wait()
                sink.sendall(data)
        self._audible.wait()  # the end of a connection is held back, too
        self._cut(source, sink)

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            ended = list(self._open)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut(*ended)
        self._audible.set()

    def _cut(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def forward(url: str) -> Iterator[tuple[Forwarder, str]]:
    """A forwarder in front of the server that a URL names with its port, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    assert parts.port is not None, url
    user, at, _ = parts.netloc.rpartition("@")
    with Forwarder.opened(parts.port, parts.hostname) as forwarder:
        yield forwarder, parts._replace(netloc=f"{user}{at}127.0.0.1:{forwarder.port}").geturl()
