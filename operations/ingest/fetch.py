"""Fetches the one web page that a URL names, within limits of size, time and redirects.

Nothing in the page is followed. Over urllib3, which minio needs too: no further package. Its connections are used
without a pool, so that every redirect is checked here, and so that the time limit can close the socket.
"""

import base64
import http.client
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http import HTTPStatus
from importlib.metadata import version

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import HTTPResponse

from operations.errors import OperationError, UsageError
from operations.ingest.deadline import Deadline
from operations.ingest.urls import PageUrl
from producer.processing.extract.limits import DEFAULT_LIMITS

_BLOCK_BYTES = 64 * 1024
_WHOLE = (HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION)
_REDIRECTS = (301, 302, 303, 307, 308)
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")  # one at most: each of several could unpack a thousandfold
_ALLOWED_SCHEMES = {"http": ("http", "https"), "https": ("https",)}  # of a redirect, by that of the page


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """A page beyond one of these limits is refused."""

    file_bytes: int = DEFAULT_LIMITS.file_bytes  # of the unpacked content
    seconds: float = 120.0  # for all of it, redirects included
    connect_seconds: float = 10.0
    silent_seconds: float = 30.0  # without a byte
    redirects: int = 5


DEFAULT_FETCH_LIMITS = FetchLimits()


class FetchError(OperationError):
    """Raised when a page cannot be fetched; the message names its URL, without credentials, and the reason."""

    def __init__(self, url: PageUrl, reason: str) -> None:
        super().__init__(f"{url.shown}: {reason}")


@dataclass(frozen=True, slots=True)
class Page:
    """What a server sent."""

    content: bytes = field(repr=False)
    content_type: str = ""  # the media type in lower case; empty if the server named none
    charset: str | None = None
    redirects: tuple[str, ...] = ()  # the URLs that it led through after the first one


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def fetch(url: PageUrl, limits: FetchLimits = DEFAULT_FETCH_LIMITS) -> Page:
    """Fetch a page and follow its redirects. Raises FetchError."""
    visited = [url]
    with Deadline(limits.seconds) as deadline:
        visit = _Visit(url, limits, deadline)
        while True:
            try:
                answer = visit.get(visited[-1])
                if isinstance(answer, Page):
                    return replace(answer, redirects=tuple(each.shown for each in visited[1:]))
                visited.append(_follow(visited, answer.location, limits))
            except FetchError as error:
                raise _name_start(error, visited) from error


def _follow(visited: list[PageUrl], location: str, limits: FetchLimits) -> PageUrl:
    """Where a redirect leads to. Raises FetchError if it may not be followed."""
    page = visited[-1]
    try:
        following = page.resolve(location)
    except UsageError as error:
        raise FetchError(page, f"it redirects to {error}") from error
    if following.scheme not in _ALLOWED_SCHEMES[page.scheme]:
        raise FetchError(page, f"it redirects from {page.scheme} to {following.shown}, which is not encrypted")
    if any(following.target == each.target and following.origin == each.origin for each in visited):
        raise FetchError(page, f"it redirects to {following.shown}, which redirected to it")
    if len(visited) > limits.redirects:
        raise FetchError(page, f"it redirects again; {limits.redirects} redirects are the limit")
    return following


def _name_start(error: FetchError, visited: list[PageUrl]) -> FetchError:
    """The error of the last visited page, with the URL that the operator gave."""
    return error if len(visited) == 1 else FetchError(visited[0], f"redirected to {error}")


class _Visit:
    """The requests of one fetch: the page itself, and each page that it redirects to."""

    def __init__(self, start: PageUrl, limits: FetchLimits, deadline: Deadline) -> None:
        self._start = start
        self._limits = limits
        self._deadline = deadline
        self._began_outside = False  # at a public address

    def get(self, url: PageUrl) -> Page | _Redirect:
        """Request one URL. Raises FetchError."""
        connection = _make_connection(url, self._limits)
        try:
            connection.connect()
            self._deadline.watch(connection.sock)
            self._check_address(url, connection.sock.getpeername()[0])
            connection.timeout = self._limits.silent_seconds
            connection.request("GET", url.target, headers=self._headers(url), preload_content=False)
            return self._read(url, connection.getresponse())
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self._deadline.is_over:
                raise FetchError(url, f"not fetched within {self._limits.seconds:g} s, which is the limit") from error
            raise FetchError(url, _describe(error, self._limits)) from error
        finally:
            self._deadline.release()
            connection.close()

    def _headers(self, url: PageUrl) -> Mapping[str, str]:
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "gzip",
            "Connection": "close",
            "User-Agent": f"rag-outbox/{version('rag-outbox')}",
        }
        if self._start.user is not None and url.origin == self._start.origin:
            encoded = base64.b64encode(self._start.user.encode()).decode()
            headers["Authorization"] = f"Basic {encoded}"
        return headers

    def _check_address(self, url: PageUrl, address: str) -> None:
        """A page of the internet must not make this machine read a page of its own network."""
        is_outside = _is_public(address)
        if url is self._start:
            self._began_outside = is_outside
        elif self._began_outside and not is_outside:
            raise FetchError(url, f"a page of a public address redirects to {address}, which is not public")

    def _read(self, url: PageUrl, response: HTTPResponse) -> Page | _Redirect:
        with response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                return _Redirect(_repair(location))
            if response.status not in _WHOLE:
                raise FetchError(url, f"HTTP status {_describe_status(response.status)}")
            content = self._read_content(url, response)
        kind = Message()
        kind["Content-Type"] = response.headers.get("Content-Type", "")
        media_type = str(kind["Content-Type"]).partition(";")[0].strip().lower()
        return Page(content, media_type, kind.get_content_charset())

    def _read_content(self, url: PageUrl, response: HTTPResponse) -> bytes:
        most = self._limits.file_bytes
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise FetchError(url, f"it is sent as {encoding[:40]!r}, which was not asked for")
        if (response.length_remaining or 0) > most:
            raise FetchError(url, f"too large: {response.length_remaining:,} bytes, the limit is {most:,}")
        content = bytearray()
        while block := response.read1(_BLOCK_BYTES, decode_content=True):
            content += block
            if len(content) > most:
                raise FetchError(url, f"too large: more than {most:,} bytes, which is the limit")
        if self._deadline.is_over:  # a connection that was cut may look like one that ended
            raise TimeoutError
        return bytes(content)


def _make_connection(url: PageUrl, limits: FetchLimits) -> HTTPConnection:
    if url.scheme == "http":
        return HTTPConnection(url.host, url.port, timeout=limits.connect_seconds)
    return HTTPSConnection(
        url.host,
        url.port,
        timeout=limits.connect_seconds,
        cert_reqs="CERT_REQUIRED",
        ca_certs=_trusted_certificates(),
    )


def _trusted_certificates() -> str:
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_global


def _repair(location: str) -> str:
    """A header is read as Latin-1; servers send UTF-8."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def _describe_status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _describe(error: Exception, limits: FetchLimits) -> str:
    """What went wrong, without the words of the server."""
    match error:
        case NameResolutionError():
            return "its host name is not known"
        case NewConnectionError():  # before the next one, of which it is a kind
            return f"no connection: {getattr(error.__cause__, 'strerror', None) or 'refused'}"
        case ConnectTimeoutError():
            return f"no connection within {limits.connect_seconds:g} s, which is the limit"
        case ReadTimeoutError() | TimeoutError():
            return f"the server was silent for {limits.silent_seconds:g} s, which is the limit"
        case SSLError():  # urllib3's own: it cannot load what to trust
            return f"no encrypted connection: {_trusted_certificates()} is no file of certificates"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}"
        case ssl.SSLError():
            return f"no encrypted connection: {error.reason or 'it ended'}"
        case DecodeError():
            return "its content is damaged: it cannot be unpacked"
        case _:
            return f"the connection broke, or the answer is not HTTP ({type(error).__name__})"
