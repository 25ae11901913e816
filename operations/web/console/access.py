"""Who may read: everybody on this machine, or, when others can reach the console, whoever is signed in.

A page of another site can make its own name point to 127.0.0.1 and let a browser read the console under that name.
So reading without a token is answered under the names of this machine only.
"""

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name other than localhost may be any machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """`names` are the host names of a reverse proxy in front of a console that listens on a loopback address."""

    listens_on_loopback: bool
    names: Collection[str] = ()

    def knows_host(self, host: str) -> bool:
        """Whether the header `Host` of a request is one that its browser may use here."""
        if not self.listens_on_loopback:
            return True  # nothing is shown without a session, and a cookie belongs to one name
        name = _without_port(host)
        return name in _LOCAL_NAMES or name in self.names

    def needs_session(self, headers: Mapping[str, str]) -> bool:
        """Whether a request must be signed in to read: it may come from another machine.

        Some proxies name themselves in no header and ask for 127.0.0.1, so behind one every request must be.
        """
        if not self.listens_on_loopback or self.names or any(name in headers for name in _PROXY_HEADERS):
            return True
        return _without_port(headers.get("host", "")) not in _LOCAL_NAMES


def is_same_origin(origin: str | None, host: str) -> bool:
    """Whether a form comes from our own page. The scheme is left out: a proxy may speak TLS for us.

    Browsers send `Origin` with every form; a request without one, or with `null`, comes from elsewhere.
    """
    if not origin or not host:
        return False
    scheme, _, place = origin.partition("://")
    return scheme in {"http", "https"} and place.lower() == host.lower()


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()
