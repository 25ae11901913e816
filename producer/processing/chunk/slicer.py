"""Cuts a text into chunks that are small enough to embed and large enough to mean something.

Every chunk is a slice of the text; no character but white space is lost, and no word is cut that fits into a chunk.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from producer.processing.chunk import boundaries, sections
from schema.limits import CONTENT_BYTES

MARKDOWN_HEADINGS = "markdown-headings"  # values of chunks.chunk_strategy, VARCHAR(32)
SIZE_OVERLAP = "size-overlap"

MAX_CHARS = 1_000
OVERLAP_CHARS = 100
MAX_BYTES = 8 * 1024  # of UTF-8
SMALL_CHARS = 200  # what is smaller joins its neighbour

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A slice of a text: `text[start:end] == content`, offsets in characters, no white space at either end."""

    content: str
    start: int
    end: int
    headings: tuple[str, ...]  # titles of the Markdown headings that all of the content stands under, outermost first


@dataclass(frozen=True, slots=True)
class _Limits:
    max_chars: int
    overlap_chars: int
    max_bytes: int
    small_chars: int


def strategy(*, markdown: bool) -> str:
    """The name to store as `chunk_strategy` for chunks made with this setting."""
    return MARKDOWN_HEADINGS if markdown else SIZE_OVERLAP


def chunk(
    text: str,
    *,
    max_chars: int = MAX_CHARS,
    overlap_chars: int = OVERLAP_CHARS,
    max_bytes: int = MAX_BYTES,
    markdown: bool = True,
) -> list[TextChunk]:
    """Cuts `text` at its Markdown headings, then by size; in linear time. A blank text has no chunks.

    A chunk holds at most `max_chars` characters and `max_bytes` bytes of UTF-8. Chunks cut by size repeat up to
    `overlap_chars` whole-word characters of the one before; chunks on two sides of a heading never overlap. Small
    sections share a chunk. A word (a run without white space) is cut only if it is longer than a chunk; sentences of
    Chinese and Japanese, which have no spaces, end at their punctuation.

    Raises ValueError for limits that cannot hold, and for a text that UTF-8 cannot encode (a lone surrogate).
    """
    limits = _limits(max_chars, overlap_chars, max_bytes)
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise ValueError(f"text is not valid Unicode: lone surrogate at character {surrogate.start()}")
    found = sections.of_markdown(text) if markdown else sections.whole(text)
    index = sections.HeadingIndex(found)
    return [
        TextChunk(text[start:end], start, end, index.over(start, end))
        for span in sections.join_small(found, small_chars=limits.small_chars, max_chars=max_chars)
        for start, end in _slices(text, *span, limits)
    ]


def _limits(max_chars: int, overlap_chars: int, max_bytes: int) -> _Limits:
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}")
    if not 0 <= overlap_chars <= max_chars // 2:
        raise ValueError(f"overlap_chars must be from 0 to half of max_chars ({max_chars // 2}), not {overlap_chars}")
    if not 4 <= max_bytes <= CONTENT_BYTES:
        raise ValueError(f"max_bytes must be from 4 (one character) to {CONTENT_BYTES:,}, not {max_bytes}")
    return _Limits(max_chars, overlap_chars, max_bytes, min(SMALL_CHARS, max_chars // 5))


def _slices(text: str, start: int, end: int, limits: _Limits) -> Iterator[tuple[int, int]]:
    """Cuts one span, which has no white space at its ends, into slices (start, end) that overlap."""
    fresh = start  # the first character that no slice covers yet; never white space
    while (room_end := _room_end(text, start, end, limits)) < end:
        cut = _cut(text, fresh, room_end, end - limits.small_chars)
        if cut is None and start < fresh:
            start = fresh  # the overlap leaves no room for the next word
            continue
        if cut is None:
            cut = boundaries.inside_word(text, fresh, room_end)
        slice_end = start + len(text[start:cut].rstrip())
        yield start, slice_end
        fresh = boundaries.skip_space(text, cut)
        repeated = boundaries.first_word_start(text, max(slice_end - limits.overlap_chars, start + 1), slice_end)
        start = fresh if repeated is None else repeated
    yield start, end


def _room_end(text: str, start: int, end: int, limits: _Limits) -> int:
    """How far a chunk from `start` may reach."""
    content = text[start : min(start + limits.max_chars, end)]
    if 4 * len(content) > limits.max_bytes:
        content = content.encode()[: limits.max_bytes].decode(errors="ignore")
    return start + len(content)


def _cut(text: str, fresh: int, room_end: int, small_rest: int) -> int | None:
    """Where to end a chunk, None if the next word does not fit.

    Looks in the second half of the room for new text first, so that every chunk brings at least that much and the
    whole takes linear time, and not where what is left over would be a small chunk.
    """
    middle = max((fresh + room_end) // 2, fresh + 1)
    cut = boundaries.last_between(text, middle, min(room_end, max(small_rest, middle)))
    return boundaries.last_word_end(text, fresh + 1, room_end) if cut is None else cut
