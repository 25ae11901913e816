"""Chooses free ports on the loopback interface."""

import random
import socket

from compose.native.errors import ServerError

HOST = "127.0.0.1"
# Below the range of ports for outgoing connections, so that the kernel never gives one of ours to a connection.
FIRST, LAST = 20_000, 32_700


def is_free(port: int) -> bool:
    """Whether a server can listen on the port now. A port in TIME_WAIT is free: the servers reuse addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether a process listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=2.0):
            return True
    except OSError:
        return False


def choose(name: str, given: int | None, last: int | None, taken: set[int]) -> int:
    """The given port, else the port of the last run if it is free, else any free one. Adds it to `taken`.

    Raises ServerError if the given port is in use.
    """
    if given is not None:
        if given in taken or not is_free(given):
            raise ServerError(f"{name}: port {given} is in use; give another port or none")
        port = given
    elif last is not None and last not in taken and is_free(last):
        port = last
    else:
        port = _any(taken)
    taken.add(port)
    return port


def _any(taken: set[int]) -> int:
    for port in random.sample(range(FIRST, LAST), 1000):
        if port not in taken and is_free(port):
            return port
    raise ServerError(f"no free port between {FIRST} and {LAST}")
