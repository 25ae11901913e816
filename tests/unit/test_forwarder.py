"""The forwarder that chaos tests put in front of a server."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.forwarder import Forwarder

pytestmark = pytest.mark.unit


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers each connection with what it gets."""

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_silence_mutes_open_and_new_connections_until_healed(echo: int) -> None:
    with Forwarder.opened(echo) as forwarder:
        address = ("127.0.0.1", forwarder.port)
        with socket.create_connection(address, 5) as old:
            old.sendall(b"one")
            assert old.recv(100) == b"one"
            forwarder.silence()
            with socket.create_connection(address, 5) as new:
                for connection in (old, new):
                    connection.settimeout(0.1)
                    connection.sendall(b"two")
                    with pytest.raises(TimeoutError):
                        connection.recv(100)
                forwarder.heal()
                for connection in (old, new):
                    connection.settimeout(5)
                    assert connection.recv(100) == b"two"


def test_closed_forwarder_ends_its_connections(echo: int) -> None:
    with Forwarder.opened(echo) as forwarder:
        connection = socket.create_connection(("127.0.0.1", forwarder.port), 5)
        connection.sendall(b"one")
        assert connection.recv(100) == b"one"
    with connection:
        assert connection.recv(100) == b""
