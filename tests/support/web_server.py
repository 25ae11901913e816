"""A real web server, with or without TLS; each of its pages can misbehave."""

import gzip
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.http_server import QuietServer, serve_in_thread

Reply = Callable[["Handler"], None]


class WebServer:
    """`pages` are its replies by path; `requests` are the path and the headers of each request that came."""

    def __init__(self) -> None:
        self.pages: dict[str, Reply] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.released = threading.Event()  # ends replies that never end by themselves
        self.scheme = "http"
        self.port = 0

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The path of every request."""
        return [path for path, _ in self.requests]

    def url(self, path: str, user: str = "") -> str:
        return f"{self.scheme}://{user}{self.netloc}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: WebServer

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, dict(self.headers.items())))
        self.owner.pages.get(self.path, page(b"no such page", status=404))(self)
        self.close_connection = True

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def page(
    content: bytes,
    content_type: str | None = "text/html",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An ordinary answer."""
    named = {} if content_type is None else {"Content-Type": content_type}

    def reply(handler: Handler) -> None:
        handler.begin(status, {"Content-Length": str(len(content)), **named, **(headers or {})})
        handler.wfile.write(content)

    return reply


def packed(content: bytes, encoding: str = "gzip") -> Reply:
    """Content that is sent as gzip; `encoding` is what its header says."""
    return page(gzip.compress(content), headers={"Content-Encoding": encoding})


def redirect(location: str, status: int = 302) -> Reply:
    return page(b"moved", status=status, headers={"Location": location})


def endless(block: bytes) -> Reply:
    """A block again and again, as fast as the client takes it."""

    def reply(handler: Handler) -> None:
        handler.begin(200, {"Content-Type": "text/html"})
        while not handler.owner.released.is_set():
            handler.wfile.write(block)

    return reply


def slow_body(handler: Handler) -> None:
    """A byte at a time, so that no read is silent for long."""
    handler.begin(200, {"Content-Type": "text/html"})
    while not handler.owner.released.wait(0.01):
        handler.wfile.write(b" ")


def slow_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    while not handler.owner.released.wait(0.01):
        handler.wfile.write(b"x")


def silent(handler: Handler) -> None:
    handler.owner.released.wait(60)


def half(handler: Handler) -> None:
    """The connection ends in the middle of the answer."""
    handler.begin(200, {"Content-Type": "text/html", "Content-Length": "1000"})
    handler.wfile.write(b"<html>")


@contextmanager
def serve(certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[WebServer]:
    """A server of its own; with the file of a certificate and its key, it speaks TLS."""
    owner = WebServer()
    server = QuietServer((host, 0), type("OwnHandler", (Handler,), {"owner": owner}))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        owner.scheme = "https"
    owner.port = server.server_port
    with serve_in_thread(server, owner.released):
        yield owner


def write_certificate(path: Path, address: str = "127.0.0.1") -> Path:
    """A certificate for an address, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + certificate.public_bytes(encoding))
    return path
