"""Cuts a span of text into slices of bounded size that overlap.

No character but white space is lost, and a word is cut only if it is longer than a slice.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from producer.processing.chunk import boundaries
from schema.limits import CONTENT_BYTES

_SMALL_CHARS = 200
_LEAST_PART = 3
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """The size of a chunk, and how many characters it may repeat of the previous one.

    Raises ValueError for limits that contradict each other.
    """

    max_chars: int = 1_000
    overlap_chars: int = 100
    max_bytes: int = 8 * 1024  # of UTF-8

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, not {self.max_chars}")
        if not 0 <= self.overlap_chars <= self.max_chars // 2:
            half = self.max_chars // 2
            raise ValueError(f"overlap_chars must be from 0 to half of max_chars ({half}), not {self.overlap_chars}")
        if not 4 <= self.max_bytes <= CONTENT_BYTES:
            raise ValueError(f"max_bytes must be from 4 (one character) to {CONTENT_BYTES:,}, not {self.max_bytes}")

    @property
    def small_chars(self) -> int:
        """A section or a rest below this size joins its neighbour."""
        return min(_SMALL_CHARS, self.max_chars // 5)


DEFAULT_LIMITS = ChunkLimits()


def require_unicode(text: str) -> None:
    """Raise ValueError for a lone surrogate: UTF-8 cannot encode it."""
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise ValueError(f"text is not valid Unicode: lone surrogate at character {surrogate.start()}")


def slices(text: str, start: int, end: int, limits: ChunkLimits) -> Iterator[tuple[int, int]]:
    """Yield slices (start, end) of a span that has no white space at its ends; in linear time.

    A slice repeats up to `overlap_chars` characters of the previous one, whole words only. Sentences of Chinese and
    Japanese, which have no spaces, end at their punctuation.
    """
    fresh = start  # the first character that no slice covers yet; never white space
    while (room := room_end(text, start, end, limits)) < end:
        cut = _cut(text, fresh, room, end - limits.small_chars)
        if cut is None and start < fresh:
            start = fresh  # the overlap leaves no room for the next word
            continue
        if cut is None:
            cut = boundaries.inside_word(text, fresh, room)
        slice_end = start + len(text[start:cut].rstrip())
        yield start, slice_end
        fresh = boundaries.skip_space(text, cut)
        repeated = boundaries.first_word_start(text, max(slice_end - limits.overlap_chars, start + 1), slice_end)
        start = fresh if repeated is None else repeated
    yield start, end


def room_end(text: str, start: int, end: int, limits: ChunkLimits) -> int:
    """The farthest end that a slice from `start` may have."""
    content = text[start : min(start + limits.max_chars, end)]
    if 4 * len(content) > limits.max_bytes:
        content = content.encode()[: limits.max_bytes].decode(errors="ignore")
    return start + len(content)


def _cut(text: str, fresh: int, room: int, small_rest: int) -> int | None:
    """Where to end a slice, None if the next word does not fit.

    Prefers the last two thirds of the room for new text: every slice then brings at least a third of a room of it, so
    the whole takes linear time, and the cuts before and after an edit soon meet. Avoids a cut after `small_rest`, which
    would leave a small last slice.
    """
    low = max(fresh + (room - fresh) // _LEAST_PART, fresh + 1)
    cut = boundaries.best_between(text, low, min(room, max(small_rest, low)))
    return boundaries.last_word_end(text, fresh + 1, room) if cut is None else cut
