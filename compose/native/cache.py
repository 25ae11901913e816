"""The fetched programs, shared by all data folders. A folder with its final name is complete: it got it by a rename."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from compose.native import lock
from compose.native.errors import ServerError, Unavailable
from compose.native.output import say

VARIABLE = "RAG_OUTBOX_SERVERS_CACHE"


class Cache:
    """Folders that are filled once, by one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_this_user(cls) -> "Cache":
        given = os.environ.get(VARIABLE)
        if given:
            return cls(Path(given).absolute())
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(base).absolute() / "rag-outbox")

    def folder(self, key: str) -> Path:
        """The folder of `key`; it exists once `key` is fetched."""
        return self.root / key

    def fill_once(self, name: str, key: str, fill: Callable[[Path], None]) -> None:
        """Call `fill` to write the folder `key` of server `name`, unless it exists. Raises Unavailable."""
        target = self.folder(key)
        if target.exists():
            return
        try:
            with lock.hold(self.root / f"{key}.lock", name, "another fetch"):
                if target.exists():
                    return
                say(name, f"fetching once into {target}")
                part = self.root / f"{key}.part"
                shutil.rmtree(part, ignore_errors=True)  # left by a killed fetch: we hold the lock
                part.mkdir()
                _fill(part, fill)
                part.rename(target)
        except PermissionError as error:
            raise Unavailable(f"{name}: cannot write to the cache: {error}; set {VARIABLE} to another folder") from None
        say(name, "fetched")


def _fill(part: Path, fill: Callable[[Path], None]) -> None:
    try:
        fill(part)
    except Unavailable:
        raise
    except ServerError as error:
        raise Unavailable(f"{error}\n    the first fetch needs the network") from None
