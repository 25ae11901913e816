"""The options of MySQL's programs: in a file without a name, so no argument, log or folder contains the password."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import URL

_FILES = {"ssl_ca": "ssl-ca", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key", "ssl_capath": "ssl-capath"}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}  # the backslash first
_YES = {"1", "true", "yes", "on"}


@contextmanager
def option_file(url: URL) -> Iterator[int]:
    """A file descriptor for `--defaults-file=/dev/fd/N`; the file was never visible, and ends with the process."""
    with tempfile.TemporaryFile() as file:  # mode 600, and already unlinked
        lines = [f"{name}={_quote(value)}\n" for name, value in _options(url).items()]
        file.write(f"[client]\n{''.join(lines)}".encode())
        file.flush()
        yield file.fileno()


def _options(url: URL) -> Mapping[str, str]:
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    options = {"user": url.username or "", "password": url.password or "", "get-server-public-key": "1"}
    if "unix_socket" in query:
        options |= {"protocol": "SOCKET", "socket": query["unix_socket"]}
    else:
        options |= {"protocol": "TCP", "host": url.host or "127.0.0.1", "port": str(url.port or 3306)}
    options |= {ours: query[theirs] for theirs, ours in _FILES.items() if theirs in query}
    return {name: value for name, value in (options | {"ssl-mode": _ssl_mode(query)}).items() if value}


def _ssl_mode(query: Mapping[str, str]) -> str:
    """As strict as PyMySQL is with these options of the URL; empty: the client's own default."""

    def is_set(name: str) -> bool:
        return query.get(name, "").lower() in _YES

    if is_set("ssl_disabled"):
        return "DISABLED"
    if is_set("ssl_verify_identity") or is_set("ssl_check_hostname"):
        return "VERIFY_IDENTITY"
    if is_set("ssl_verify_cert") or "ssl_ca" in query or "ssl_capath" in query:
        return "VERIFY_CA"
    return "REQUIRED" if any(name.startswith("ssl_") for name in query) else ""


def _quote(value: str) -> str:
    for plain, escaped in _ESCAPES.items():
        value = value.replace(plain, escaped)
    return f'"{value}"'
