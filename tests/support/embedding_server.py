"""A real HTTP server that speaks `/v1/embeddings`, and can be told to misbehave for its next requests."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.http_server import QuietServer, serve_in_thread

DIMENSION = 8
Reply = Callable[["Handler", list[str]], None]


def vector(text: str, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    """The vector that the server has of a text; its length is 1."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    values = np.random.default_rng(seed).normal(size=dimension)
    unit: npt.NDArray[np.float32] = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


class EmbeddingServer:
    """`requests` are the bodies that came. The next requests get `replies`, those after them the right answer."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: list[Reply] = []
        self.released = threading.Event()  # ends replies that are silent
        self.url = ""

    @property
    def texts(self) -> list[str]:
        """Every text of every request."""
        return [text for request in self.requests for text in request["input"]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: EmbeddingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append({"path": self.path, **body})
        self.owner.headers.append(dict(self.headers.items()))
        reply = self.owner.replies.pop(0) if self.owner.replies else right()
        reply(self, body["input"])

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def right(*, encoding: str = "float", dimension: int | None = None, scale: float = 1.0, turned: bool = False) -> Reply:
    """The right answer, in another form: base64, another dimension or length, or in the opposite order."""

    def reply(handler: Handler, texts: list[str]) -> None:
        items = []
        for index, text in enumerate(texts):
            values = vector(text, dimension or handler.owner.dimension) * np.float32(scale)
            made = base64.b64encode(values.tobytes()).decode() if encoding == "base64" else values.tolist()
            items.append({"object": "embedding", "index": index, "embedding": made})
        if turned:
            items.reverse()
        answer = {"object": "list", "data": items, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        handler.send(200, json.dumps(answer).encode())

    return reply


def embeddings(*embeddings: Sequence[float] | str) -> Reply:
    """Exactly these."""
    items = [{"index": index, "embedding": one} for index, one in enumerate(embeddings)]
    return status(200, json.dumps({"data": items}).encode())


def status(code: int, content: bytes = b"", **headers: str) -> Reply:
    return lambda handler, _: handler.send(code, content, **headers)


def error(code: int, message: str, **headers: str) -> Reply:
    return status(code, json.dumps({"error": {"message": message, "type": "x"}}).encode(), **headers)


def refuse_if(is_bad: Callable[[str], bool], message: str = "too long") -> Reply:
    """Status 400 for a request with a bad text."""

    def reply(handler: Handler, texts: list[str]) -> None:
        (error(400, message) if any(map(is_bad, texts)) else right())(handler, texts)

    return reply


def silent(handler: Handler, _texts: list[str]) -> None:
    handler.owner.released.wait(60)
    handler.close_connection = True


def half(handler: Handler, _texts: list[str]) -> None:
    """The connection ends in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


def endless(handler: Handler, _texts: list[str]) -> None:
    """An answer that never ends, a byte at a time: no read is silent for long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.owner.released.wait(0.01):
        handler.wfile.write(b" ")


@contextmanager
def serve(dimension: int = DIMENSION) -> Iterator[EmbeddingServer]:
    owner = EmbeddingServer(dimension)
    server = QuietServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"owner": owner}))
    owner.url = f"http://127.0.0.1:{server.server_port}/v1"
    with serve_in_thread(server, owner.released):
        yield owner
