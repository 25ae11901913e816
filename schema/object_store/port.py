"""The object store port: what the writer's staging, the sinks and reconcile need of a bucket, and nothing more."""

from collections.abc import Iterable, Iterator
from typing import Protocol


class ObjectMissing(Exception):
    """Raised when an object that must be read or copied is not there."""

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key!r} is missing")
        self.key = key


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, all that is left when negative, none at the end."""


class ObjectStore(Protocol):
    """One bucket. A reader sees an object whole, as it was before or after a write, never half of it."""

    def ensure(self) -> None:
        """Create the bucket and the rules that it needs; harmless when they exist."""

    def put(self, key: str, stream: Readable, *, size_bytes: int, content_type: str, sha256: str | None) -> None:
        """Write `size_bytes` of `stream` in bounded memory, replacing what was there."""

    def read(self, key: str) -> bytes:
        """The whole object; raises ObjectMissing."""

    def copy(self, source: str, target: str, *, content_type: str, sha256: str) -> None:
        """Copy within the store, without moving the bytes through this process; raises ObjectMissing.

        The copy has this content type, and the digest that the caller knows of the source.
        """

    def sha256(self, key: str) -> str | None:
        """The hex digest of the object's bytes; None when it is not there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that starts with `prefix`, in order."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def location(self, key: str) -> str:
        """Where a person finds the object: a path or a URL."""
