"""The state of the servers, in DATA/servers.json. The file is replaced as a whole: a reader never sees half of it."""

import os
import secrets
import threading
from pathlib import Path

import msgspec

from compose.native.errors import ServerError
from compose.native.process import Process, alive

FILE = "servers.json"
_lock = threading.Lock()


class Record(msgspec.Struct):
    """The ports of a server, kept for its next start, and its process while it is started."""

    ports: dict[str, int] = {}
    process: Process | None = None
    version: str = ""


class _Content(msgspec.Struct):
    password: str
    env_file: str = ""
    servers: dict[str, Record] = {}


class State:
    """The servers of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE
        try:
            self._content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            self._content = _Content(password=secrets.token_hex(16))
        except msgspec.MsgspecError as error:
            raise ServerError(f"{self._path} cannot be read: {error}") from None

    @property
    def password(self) -> str:
        """The password of every server in this folder that needs one."""
        return self._content.password

    @property
    def env_file(self) -> Path | None:
        return Path(self._content.env_file) if self._content.env_file else None

    @env_file.setter
    def env_file(self, path: Path | None) -> None:
        self._content.env_file = str(path or "")
        self.save()

    def record(self, name: str) -> Record:
        with _lock:
            return self._content.servers.setdefault(name, Record())

    def running(self, name: str) -> Process | None:
        process = self.record(name).process
        return process if process is not None and alive(process) else None

    def save(self) -> None:
        with _lock:
            write_private(self._path, msgspec.json.format(msgspec.json.encode(self._content), indent=2))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)
