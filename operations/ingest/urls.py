"""The URL of a web page: what the server gets, and what of it may be shown and stored.

User, password and the parameters that carry credentials reach the server only: `shown` has none of them.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from operations.errors import UsageError

_FETCHED = re.compile("https?://", re.IGNORECASE)
_ANY_SCHEME = re.compile("([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOCATION_SCHEME = re.compile("([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_URL_CHARACTERS = 8_192
_CREDENTIALS = {  # names of query parameters
    *("token", "access_token", "access-token", "auth_token", "id_token", "job_token", "private_token", "jwt"),
    *("api_key", "apikey", "api-key", "x-api-key", "client_secret", "secret", "password", "passwd", "pwd"),
    *("sig", "signature"),
}
_SIGNED = {  # names of parameters that come with a signature, and change with it: S3, Google and CloudFront, then Azure
    *("expires", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy"),
    *("se", "ses", "si", "sip", "sp", "spr", "sr", "srt", "ss", "st", "sv", "sdd", "saoid", "suoid", "scid"),
    *("ske", "skoid", "sks", "skt", "sktid", "skv"),
}
_SIGNING = ("x-amz-", "x-goog-")  # how the parameters of a presigned URL begin: credentials, and the time of signing


@dataclass(frozen=True, slots=True)
class PageUrl:
    """An http or https URL. Two of them are the same page when `shown` is equal."""

    scheme: str
    host: str  # without brackets
    port: int
    shown: str  # without credentials and fragment, in one spelling
    name: str  # the last part of the path, decoded; the host if the path has none
    target: str = field(repr=False)  # path and query for the server
    user: str | None = field(repr=False, default=None)  # "user:password", decoded

    @property
    def origin(self) -> tuple[str, str, int]:
        """Credentials are for this origin only."""
        return self.scheme, self.host, self.port

    def resolve(self, location: str) -> "PageUrl":
        """The URL that a redirect leads to. Raises UsageError."""
        scheme = _LOCATION_SCHEME.match(location)
        if scheme and scheme[1].lower() not in _PORTS:
            raise UsageError(f"{scheme[1].lower()[:20]}:…, and only http and https are followed")
        try:
            return parse_page_url(urljoin(f"{self.scheme}://{_netloc(self)}{self.target}", location))
        except ValueError as error:  # brackets without an address in them
            raise UsageError(f"{_hide(location)}: not a valid URL") from error


def is_page_url(text: str) -> bool:
    """Whether an argument begins with http:// or https://."""
    return _FETCHED.match(text) is not None


def find_scheme(text: str) -> str | None:
    """The scheme of a URL in lower case; None for a path."""
    found = _ANY_SCHEME.match(text)
    return found[1].lower() if found else None


def parse_page_url(text: str) -> PageUrl:
    """Raises UsageError, which quotes neither user nor password nor query."""
    if len(text) > _URL_CHARACTERS:
        raise UsageError(f"{_hide(text)}: a URL has at most {_URL_CHARACTERS:,} characters")
    try:
        text.encode()
        parts = parse_url(text)
    except (LocationParseError, UnicodeError) as error:
        raise UsageError(f"{_hide(text)}: not a valid URL") from error
    if parts.scheme not in _PORTS or not parts.host:
        raise UsageError(f"{_hide(text)}: not a URL with http:// or https:// and a host")
    return _page_url(parts)


def _page_url(parts: Url) -> PageUrl:
    scheme, host, path = str(parts.scheme), str(parts.host), parts.path or "/"
    port = parts.port or _PORTS[scheme]
    shown_port = "" if port == _PORTS[scheme] else f":{port}"
    kept = _without_credentials(parts.query or "")
    return PageUrl(
        scheme=scheme,
        host=host.strip("[]"),
        port=port,
        shown=f"{scheme}://{host}{shown_port}{path}{f'?{kept}' if kept else ''}",
        name=unquote(path.rstrip("/").rpartition("/")[2]) or host.strip("[]"),
        target=f"{path}?{parts.query}" if parts.query else path,
        user=None if parts.auth is None else unquote(parts.auth),
    )


def _netloc(url: PageUrl) -> str:
    return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"


def _without_credentials(query: str) -> str:
    named = [(unquote(one.partition("=")[0]).lower(), one) for one in query.split("&")]
    signed = _SIGNED if any(name in ("sig", "signature") for name, _ in named) else set()
    return "&".join(one for name, one in named if not (_is_credential(name) or name in signed))


def _is_credential(name: str) -> bool:
    return name in _CREDENTIALS or name.startswith(_SIGNING)


def _hide(text: str) -> str:
    """The part of a URL that cannot be parsed which certainly holds no credentials: that between `@` and `?`."""
    scheme = find_scheme(text)
    start = f"{scheme}://" if scheme else ""
    rest = text[len(start) :].rpartition("@")[2]
    return f"{start}{re.split('[?#]', rest)[0][:200]}"
