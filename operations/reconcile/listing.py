"""Ranges of an object store's keys, from one listing as long as the ranges follow each other."""

from collections.abc import Iterator

from consumers.minio.translate import translate_errors
from schema.object_store.port import ObjectStore

BEHIND = "\U0010ffff"  # greater than every character of a key


class Listing:
    """Raises Retryable or StoreMissing when the object store does not answer."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._at: str | None = None  # everything up to this key was given
        self._next: str | None = None  # the key that was read and not given
        self._keys: Iterator[str] = iter(())

    def read(self, after: str, upto: str | None) -> Iterator[str]:
        """The keys k with `after` < k <= `upto`; None is no end."""
        with translate_errors():
            if self._at != after:
                self._keys = self._store.keys(self._prefix, after=after)
                self._next = None
            self._at = None  # until the range is read to its end
            while (key := self._next or next(self._keys, None)) is not None:
                self._next = None
                if upto is not None and key > upto:
                    self._next = key
                    break
                yield key
            self._at = upto
