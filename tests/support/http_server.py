"""What the HTTP servers of tests share: they answer in threads, and end with the context."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients leave in the middle of an answer."""


@contextmanager
def serve_in_thread(server: QuietServer, released: threading.Event) -> Iterator[None]:
    """Let it answer until the context ends; then `released` ends the answers that are silent or endless."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
