"""A local directory as object store. Files are replaced atomically; `put` and `remove` return once synced to disk."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from schema.object_store.port import BucketMissing, ObjectMissing, Readable

_PARTS = ".parts"  # folder of files that are being written; no key may start with it
_COPY_BYTES = 1024 * 1024
_NAME_BYTES = 255  # longest file name that file systems take
_ATTEMPTS = 1_000  # to create a folder that concurrent removals delete
_ABANDONED_SECONDS = 86_400  # age of a part file that a crash left
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class DirectoryStore:
    """Keys are paths below `root`. Raises ValueError on a key that leaves `root`, and OSError from the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self) -> bool:
        return self.root.is_dir()

    def ensure(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for path in _files(self.root / _PARTS):
            with suppress(*_ABSENT):  # another process may remove it too
                if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                    self._unlink(path)

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        def write(part: Path) -> None:
            with part.open("xb") as file:
                shutil.copyfileobj(stream, file, _COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            if size_bytes is not None and part.stat().st_size != size_bytes:
                raise OSError(errno.EIO, f"{part.stat().st_size} bytes instead of {size_bytes}", key)

        self._replace(key, write)

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except _ABSENT:
            raise ObjectMissing(key) from None

    @contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        try:
            file = self._path(key).open("rb")
        except _ABSENT:
            raise ObjectMissing(key) from None
        with file:
            yield file

    def copy(self, source: str, target: str, *, content_type: str, sha256: str) -> None:
        path = self._path(source)

        def link(part: Path) -> None:
            try:
                os.link(path, part)  # files are never changed in place, so two names may share one
            except OSError:
                if path.is_file():
                    raise
                raise ObjectMissing(source) from None

        self._replace(target, link)

    def sha256(self, key: str) -> str | None:
        try:
            with self._path(key).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except _ABSENT:
            return None

    def keys(self, prefix: str, *, after: str = "") -> Iterator[str]:
        folder = prefix[: prefix.rfind("/") + 1]
        self._path(f"{prefix}x")  # raises ValueError on a prefix that leaves the store
        return _keys_below(self.root, folder, prefix, after)

    def written_at(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, datetime]]:
        for key in self.keys(prefix, after=after):
            with suppress(*_ABSENT):
                yield key, datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)

    def sizes(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int]]:
        for key in self.keys(prefix, after=after):
            with suppress(*_ABSENT):
                yield key, self._path(key).stat().st_size

    def remove(self, keys: Iterable[str]) -> None:
        touched = set()
        for path in map(self._path, keys):
            with suppress(*_ABSENT):
                touched.add(self._unlink(path))
        _sync(touched)

    def location(self, key: str) -> str:
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        path = PurePosixPath(key)
        if not path.parts or path.is_absolute() or path.as_posix() != key or "\\" in key or "\0" in key:
            raise ValueError(f"object key {key!r} is no relative path")
        if ".." in path.parts or path.parts[0] == _PARTS:
            raise ValueError(f"object key {key!r} leaves the store")
        if max(len(part.encode()) for part in path.parts) > _NAME_BYTES:
            raise ValueError(f"object key {key!r} has a part of more than {_NAME_BYTES} bytes")
        return self.root / path

    def _replace(self, key: str, make: Callable[[Path], None]) -> None:
        """Make a part file, then rename it over the target: a crash leaves the old or the new file."""
        target = self._path(key)
        part = self.root / _PARTS / uuid.uuid4().hex
        if not self.exists():  # a lost store must not come back empty
            raise BucketMissing(self.root)
        part.parent.mkdir(exist_ok=True)
        try:
            make(part)
            _sync(_move(part, target))
        finally:
            part.unlink(missing_ok=True)

    def _unlink(self, path: Path) -> Path:
        """Remove a file and the folders that become empty; returns the first folder that stays."""
        path.unlink()
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:  # in use, or removed by another process
                return folder
        return self.root


def _keys_below(root: Path, folder: str, prefix: str, after: str) -> Iterator[str]:
    """Keys in order, folder by folder; a folder whose keys all come before `after` is not read."""
    try:
        with os.scandir(root / folder) as entries:
            names = sorted(f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name for one in entries)
    except _ABSENT:
        return
    for key in (f"{folder}{name}" for name in names):
        if key == f"{_PARTS}/" or not (key.startswith(prefix) or prefix.startswith(key)):
            continue
        if not key.endswith("/"):
            if key > after and key.startswith(prefix):
                yield key
        elif key > after or after.startswith(key):
            yield from _keys_below(root, key, prefix, after)


def _files(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top):
        for name in names:
            yield Path(folder) / name


def _move(part: Path, target: Path) -> set[Path]:
    """Returns the folders with a new entry."""
    attempts = 0
    while True:
        attempts += 1
        made = [folder for folder in target.parents if not folder.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            return {target.parent, *(folder.parent for folder in made)}
        except (FileNotFoundError, FileExistsError):  # a concurrent remove() took the empty folder: make it again
            if attempts == _ATTEMPTS:
                raise


def _sync(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(*_ABSENT):  # removed by another process
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
