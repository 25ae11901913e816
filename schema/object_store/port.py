"""The object store port: what staging, the sink, reconcile and backups need of a bucket."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol


class ObjectMissing(Exception):
    """Raised when an object that must be read or copied is not there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key!r} is missing")
        self.key = key


class BucketMissing(FileNotFoundError):
    """Raised when a write finds no bucket: only `ensure` creates it."""

    def __init__(self, bucket: object) -> None:
        super().__init__(f"there is no bucket or folder {bucket} in the object store: run rag-outbox init")


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; the rest of the stream if `size` is negative; no bytes at its end."""


class ObjectStore(Protocol):
    """One bucket. A reader sees a whole object, from before or after a write, never half of it."""

    def exists(self) -> bool:
        """Whether the bucket is there."""

    def ensure(self) -> None:
        """Create the bucket; harmless when it exists."""

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        """Write `size_bytes` of `stream`, or all of it if None, in bounded memory; an existing object is replaced.

        An error of the stream is raised, and nothing is written.
        """

    def read(self, key: str) -> bytes:
        """The whole object; raises ObjectMissing."""

    def open(self, key: str) -> AbstractContextManager[Readable]:
        """The object as a stream, for bounded memory; raises ObjectMissing."""

    def copy(self, source: str, target: str, *, content_type: str, sha256: str) -> None:
        """Copy within the store, without moving the bytes through this process; raises ObjectMissing.

        The copy has this content type and this digest, which must be the digest of the source.
        """

    def sha256(self, key: str) -> str | None:
        """The hex digest of the object's bytes; None when it is not there, or was put without a digest."""

    def keys(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Every key that starts with `prefix` and is greater than `after`, in the order of the bytes of UTF-8."""

    def written_at(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, datetime]]:
        """The keys of `keys`, with the time of the object's last write by the store's clock, in UTC.

        An object that is removed in the meantime may be left out.
        """

    def sizes(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int]]:
        """As `keys`, with the number of bytes of each object. One that is removed in the meantime may be left out."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; keys without an object are no error."""

    def location(self, key: str) -> str:
        """A path or URL where a person finds the object."""
