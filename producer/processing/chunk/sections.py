"""Cuts a Markdown text at its headings, and joins sections that are too small to stand alone."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from producer.processing.chunk import boundaries, headings


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the text up to the next one; offsets in characters, no white space at either end."""

    start: int
    end: int
    headings: tuple[str, ...]  # titles from the top level down to this section's own
    bare: bool  # headings without text


def find(text: str) -> list[Section]:
    """The sections of `text` that are not blank; the text above the first heading is a section too."""
    found: list[Section | None] = []
    path: list[headings.Heading] = []
    start = body = 0
    for heading in headings.find(text):
        found.append(_section(text, start, heading.start, path, body))
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        start, body = heading.start, heading.end
    found.append(_section(text, start, len(text), path, body))
    return [section for section in found if section]


def join_small(sections: Sequence[Section], *, small_chars: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Spans (start, end) of the text, each of one or more sections.

    A section below `small_chars` joins the next one if both fit `max_chars`; the last section joins the previous one.
    A bare heading always joins: if the span is too long, it is cut later, and never right after the heading.
    """
    spans: list[tuple[int, int, bool]] = []  # start, end, bare
    for number, section in enumerate(sections):
        if spans:
            start, end, bare = spans[-1]
            is_last = number == len(sections) - 1
            small = end - start < small_chars or (is_last and section.end - section.start < small_chars)
            if bare or (is_last and section.bare) or (small and section.end - start <= max_chars):
                spans[-1] = (start, section.end, bare and section.bare)
                continue
        spans.append((section.start, section.end, section.bare))
    return ((start, end) for start, end, _ in spans)


class HeadingIndex:
    """Finds the headings above a slice of the text."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = sections
        self._starts = [section.start for section in sections]

    def shared_headings(self, start: int, end: int) -> tuple[str, ...]:
        """The headings that all sections of the slice share; bare headings count only if no section has text."""
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1)
        touched = self._sections[first:last]
        paths = [section.headings for section in touched if not section.bare] or [each.headings for each in touched]
        shared = paths[0]
        for path in paths[1:]:
            same = 0
            while same < min(len(shared), len(path)) and shared[same] == path[same]:
                same += 1
            shared = shared[:same]
        return shared


def _section(text: str, start: int, end: int, path: Sequence[headings.Heading], body: int) -> Section | None:
    """The section without white space at its ends, None if it is blank; its text after the heading starts at `body`."""
    span = boundaries.trim(text, start, end)
    if span is None:
        return None
    start, end = span
    return Section(start, end, tuple(heading.title for heading in path if heading.title), bare=start < body >= end)
