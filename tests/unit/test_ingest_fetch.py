"""Fetches pages of a real web server: every limit holds, every failure names the URL, and nothing more is requested."""

import gzip
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.ingest import fetch as fetching
from operations.ingest.fetch import FetchError, FetchLimits, Page, fetch
from operations.ingest.urls import parse_page_url
from tests.support import web_server
from tests.support.web_server import WebServer, endless, packed, page, redirect

pytestmark = pytest.mark.unit

HTML = b"<html><body><p>Visitors park behind the house.</p></body></html>"
MIB = 1024 * 1024


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.serve() as served:
        yield served


def get(server: WebServer, path: str = "/a", limits: FetchLimits | None = None, user: str = "") -> Page:
    return fetch(parse_page_url(server.url(path, user)), limits or FetchLimits())


def refuse(server: WebServer, limits: FetchLimits | None = None, path: str = "/a", user: str = "") -> str:
    """Why the page cannot be fetched."""
    with pytest.raises(FetchError) as refused:
        get(server, path, limits, user)
    start = f"{server.url(path)}: "
    assert str(refused.value).startswith(start)
    return str(refused.value).removeprefix(start)


def test_page_is_requested_once(server: WebServer) -> None:
    server.pages["/a?b=1&token=T"] = page(HTML, 'Text/HTML; charset="ISO-8859-1"')
    assert get(server, "/a?b=1&token=T#top") == Page(HTML, "text/html", "iso-8859-1")
    [(path, headers)] = server.requests
    assert path == "/a?b=1&token=T"
    assert headers["Host"] == server.netloc
    assert headers["User-Agent"].startswith("rag-outbox/")
    assert "Authorization" not in headers


def test_page_without_content_type(server: WebServer) -> None:
    server.pages["/a"] = page(HTML, None)
    assert get(server) == Page(HTML, "", None)


def test_packed_page_is_unpacked(server: WebServer) -> None:
    server.pages["/a"] = packed(HTML)
    assert get(server).content == HTML


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(server: WebServer, status: int) -> None:
    server.pages |= {"/a": redirect("b/ü?token=T", status), "/b/%C3%BC?token=T": page(HTML)}
    assert get(server).redirects == (server.url("/b/%C3%BC"),)
    assert server.paths == ["/a", "/b/%C3%BC?token=T"]


def test_credentials_go_to_their_origin_only(server: WebServer) -> None:
    with web_server.serve() as other:
        server.pages |= {"/a": redirect("/b"), "/b": redirect(other.url("/c", "eve:x@"))}
        other.pages["/c"] = page(HTML)
        get(server, user="al%C3%ADce:p%40ss@")
        sent = [headers.get("Authorization") for _, headers in (*server.requests, *other.requests)]
    basic = "Basic YWzDrWNlOnBAc3M="  # by base64(1)
    assert sent == [basic, basic, None]


def test_redirects_are_limited(server: WebServer) -> None:
    server.pages |= {f"/{number}": redirect(f"/{number + 1}") for number in range(7)}
    reason = f"redirected to {server.url('/5')}: it redirects again; 5 redirects are the limit"
    assert refuse(server, path="/0") == reason
    assert server.paths == [f"/{number}" for number in range(6)]


def test_redirects_in_a_circle_are_refused(server: WebServer) -> None:
    server.pages |= {"/a": redirect("/b"), "/b": redirect("/a#again")}
    reason = f"redirected to {server.url('/b')}: it redirects to {server.url('/a')}, which redirected to it"
    assert refuse(server) == reason
    server.pages["/c"] = redirect("")
    assert refuse(server, path="/c") == "HTTP status 302 Found"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "file:…, and only http and https are followed"),
        ("FTP://u:secret@example.org/", "ftp:…, and only http and https are followed"),
        ("javascript:secret()", "javascript:…, and only http and https are followed"),
        ("http://u:secret@[/", "http://[/: not a valid URL"),
        ("http://u:secret@:1/?secret", "http://:1/: not a URL with http:// or https:// and a host"),
    ],
)
def test_redirect_to_another_scheme_is_refused(server: WebServer, location: str, reason: str) -> None:
    server.pages["/a"] = redirect(location)
    assert refuse(server) == f"it redirects to {reason}"


def test_redirect_out_of_tls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    certificate = web_server.write_certificate(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with web_server.serve(certificate) as secure:
        server.pages["/a"] = redirect(secure.url("/b"))
        secure.pages |= {"/b": page(HTML), "/c": redirect(server.url("/d"))}
        assert get(server).redirects == (secure.url("/b"),)
        assert refuse(secure, path="/c") == f"it redirects from https to {server.url('/d')}, which is not encrypted"
    assert server.paths == ["/a"]


def test_public_page_cannot_lead_to_a_private_one(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for the internet, and 127.0.0.2 for the network of this machine."""
    monkeypatch.setattr(fetching, "_is_public", lambda address: address == "127.0.0.1")
    with web_server.serve(host="127.0.0.2") as private:
        inside = f"http://127.0.0.2:{private.port}/"
        server.pages |= {"/a": redirect(inside), "/b": page(HTML)}
        private.pages |= {"/": page(HTML), "/b": redirect(server.url("/b"))}
        assert refuse(server) == (
            f"redirected to {inside}: a page of a public address redirects to 127.0.0.2, which is not public"
        )
        assert private.requests == []
        assert fetch(parse_page_url(f"{inside}b")).content == HTML  # the operator may name a private page


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:192.168.0.1", False),
    ],
)
def test_addresses_of_own_networks_are_known(address: str, is_public: bool) -> None:
    assert fetching._is_public(address) == is_public


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "404 Not Found"), (500, "500 Internal Server Error"), (204, "204 No Content"), (799, "799")],
)
def test_status_is_named(server: WebServer, status: int, reason: str) -> None:
    server.pages["/a"] = page(b"", status=status)
    assert refuse(server) == f"HTTP status {reason}"


def test_credentials_are_in_no_error(server: WebServer) -> None:
    server.pages["/a?sig=secret"] = page(b"alice:secret", status=401)
    with pytest.raises(FetchError) as refused:
        get(server, "/a?sig=secret", user="alice:secret@")
    assert str(refused.value) == f"{server.url('/a')}: HTTP status 401 Unauthorized"


def test_size_is_limited(server: WebServer) -> None:
    limits = FetchLimits(file_bytes=MIB)
    server.pages |= {"/exact": page(bytes(MIB)), "/a": page(bytes(MIB + 1)), "/b": endless(bytes(65_536))}
    assert len(get(server, "/exact", limits).content) == MIB
    assert refuse(server, limits) == "too large: 1,048,577 bytes, the limit is 1,048,576"
    assert refuse(server, limits, "/b") == "too large: more than 1,048,576 bytes, which is the limit"


def test_unpacked_size_is_limited(server: WebServer) -> None:
    bomb = 16 * gzip.compress(bytes(16 * MIB))
    server.pages |= {
        "/a": page(bomb, headers={"Content-Encoding": "gzip"}),
        "/b": page(bomb, headers={"Content-Encoding": "gzip, gzip"}),
    }
    tracemalloc.start()
    try:
        reason = refuse(server, FetchLimits(file_bytes=MIB))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason == "too large: more than 1,048,576 bytes, which is the limit"
    assert peak < 100 * MIB
    assert refuse(server, path="/b") == "it is sent as 'gzip, gzip', which was not asked for"


def test_damaged_packing_is_named(server: WebServer) -> None:
    server.pages["/a"] = page(b"not packed", headers={"Content-Encoding": "gzip"})
    assert refuse(server) == "its content is damaged: it cannot be unpacked"


@pytest.mark.parametrize("reply", [web_server.slow_body, web_server.slow_headers, web_server.silent])
def test_time_is_limited(server: WebServer, reply: web_server.Reply) -> None:
    server.pages["/a"] = reply
    assert refuse(server, FetchLimits(seconds=0.5)) == "not fetched within 0.5 s, which is the limit"
    assert [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)] == []


def test_slow_redirects_share_the_time(server: WebServer) -> None:
    server.pages |= {"/a": redirect("/b"), "/b": web_server.slow_body}
    reason = refuse(server, FetchLimits(seconds=2))
    assert reason == f"redirected to {server.url('/b')}: not fetched within 2 s, which is the limit"


def test_silence_is_limited(server: WebServer) -> None:
    server.pages["/a"] = web_server.silent
    limits = FetchLimits(silent_seconds=0.2)
    assert refuse(server, limits) == "the server was silent for 0.2 s, which is the limit"


def test_half_a_page_is_refused(server: WebServer) -> None:
    server.pages["/a"] = web_server.half
    assert refuse(server) == "the connection broke, or the answer is not HTTP (ProtocolError)"


def test_closed_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FetchError) as refused:
        fetch(parse_page_url(f"http://127.0.0.1:{port}/"))
    assert str(refused.value) == f"http://127.0.0.1:{port}/: no connection: Connection refused"


def test_unknown_host_is_named() -> None:
    with pytest.raises(FetchError) as refused:
        fetch(parse_page_url("http://alice:secret@host.invalid/a"))
    assert str(refused.value) == "http://host.invalid/a: its host name is not known"


def test_certificate_must_be_trusted_and_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = web_server.write_certificate(tmp_path / "own.pem")
    other = web_server.write_certificate(tmp_path / "other.pem", "127.0.0.9")
    with web_server.serve(own) as server:
        server.pages["/a"] = page(HTML)
        assert refuse(server).startswith("its certificate is not valid: self-signed certificate")
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        assert get(server).content == HTML
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with web_server.serve(other) as server:
        reason = refuse(server)
    assert reason.startswith("its certificate is not valid: IP address mismatch")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_file_without_certificates_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "trusted.pem"
    if content is not None:
        trusted.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with web_server.serve(web_server.write_certificate(tmp_path / "server.pem")) as server:
        assert refuse(server) == f"no encrypted connection: {trusted} is no file of certificates"


def test_plain_http_on_a_tls_port_is_named(server: WebServer) -> None:
    with pytest.raises(FetchError) as refused:
        fetch(parse_page_url(f"https://{server.netloc}/"))
    assert "no encrypted connection: " in str(refused.value)
