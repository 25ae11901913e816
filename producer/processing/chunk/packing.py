"""Packs whole sentences into chunks of bounded size; a sentence is cut only if it is longer than a chunk."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from producer.processing.chunk import boundaries, slicer
from producer.processing.chunk.slicer import ChunkLimits

Choose = Callable[[Sequence[int]], int]


def pack(
    text: str, span: tuple[int, int], ends: Sequence[int], limits: ChunkLimits, choose: Choose, *, least_part: int
) -> Iterator[tuple[int, int]]:
    """Yield chunks (start, end) of a span without white space at its ends; `ends` are those of its sentences.

    `choose` takes the one of several ends that a chunk shall have. A chunk brings at least a part of the room for new
    text, the `least_part`-th, so that time is linear. Chunks repeat whole sentences of the previous one, up to
    `overlap_chars`.
    """
    start, end = span
    fresh = start  # the first character that no chunk covers yet; never white space
    while (room := slicer.room_end(text, start, end, limits)) < end:
        cuts = _between(ends, fresh + (room - fresh) // least_part, min(room, end - limits.small_chars))
        cuts = cuts or _between(ends, fresh, room)
        if not cuts and start < fresh:
            start = fresh  # the overlap leaves no room for the next sentence
            continue
        if not cuts:
            following = bisect_right(ends, room)
            stop = ends[following] if following < len(ends) else end
            pieces = [*slicer.slices(text, fresh, fresh + len(text[fresh:stop].rstrip()), limits)]
            yield from pieces
            if stop >= end:
                return
            start = fresh = boundaries.skip_space(text, stop)
            continue
        cut = choose(cuts)
        chunk_end = start + len(text[start:cut].rstrip())
        yield start, chunk_end
        fresh = boundaries.skip_space(text, cut)
        repeated = bisect_left(ends, chunk_end - limits.overlap_chars)
        start = fresh
        if limits.overlap_chars and repeated < len(ends) and ends[repeated] < chunk_end:
            start = min(boundaries.skip_space(text, ends[repeated]), fresh)
    yield start, end


def _between(ends: Sequence[int], low: int, high: int) -> Sequence[int]:
    """The ends in (low, high]."""
    return ends[bisect_right(ends, low) : bisect_right(ends, high)]
