"""An object store in memory."""

import errno
import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from schema.object_store.port import BucketMissing, ObjectMissing, Readable


class MemoryObjectStore:
    """`objects` are bytes by key, None when the bucket is missing. `changes` counts writes and removals."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] | None = {}
        self.changes = 0
        self._written_at: dict[str, datetime] = {}

    def exists(self) -> bool:
        return self.objects is not None

    def ensure(self) -> None:
        if self.objects is None:
            self.objects = {}

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        _check(key)
        if size_bytes is None:
            self._write(key, b"".join(iter(lambda: stream.read(65_536), b"")))
            return
        content = bytearray()
        while piece := stream.read(size_bytes + 1 - len(content)):
            content += piece
            if len(content) > size_bytes:
                break
        if len(content) != size_bytes:
            raise OSError(errno.EIO, f"{len(content)} bytes instead of {size_bytes}", key)
        self._write(key, bytes(content))

    def read(self, key: str) -> bytes:
        found = (self.objects or {}).get(key)
        if found is None:
            raise ObjectMissing(key)
        return found

    @contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        yield io.BytesIO(self.read(key))

    def copy(self, source: str, target: str, *, content_type: str, sha256: str) -> None:
        _check(target)
        self._write(target, self.read(source))

    def sha256(self, key: str) -> str | None:
        found = (self.objects or {}).get(key)
        return None if found is None else hashlib.sha256(found).hexdigest()

    def keys(self, prefix: str, *, after: str = "") -> Iterator[str]:
        return iter(sorted(key for key in self.objects or {} if key.startswith(prefix) and key > after))

    def written_at(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, datetime]]:
        return ((key, self._written_at[key]) for key in self.keys(prefix, after=after))

    def sizes(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int]]:
        return ((key, len(self.read(key))) for key in self.keys(prefix, after=after))

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.objects or {}).pop(key, None)
        self.changes += 1

    def location(self, key: str) -> str:
        return f"memory:{key}"

    def _write(self, key: str, content: bytes) -> None:
        if self.objects is None:
            raise BucketMissing("memory")
        self.objects[key] = content
        self._written_at[key] = datetime.now(UTC)
        self.changes += 1


def _check(key: str) -> None:
    key.encode()
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(f"object key {key!r} is no plain path")
