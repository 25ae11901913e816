"""Cuts a Markdown text at its headings, and joins sections that are too small to stand alone."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from producer.processing.chunk import headings


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what follows it up to the next one; offsets in characters, white space at both ends left out."""

    start: int
    end: int
    headings: tuple[str, ...]  # titles from the top level down to this section's own
    bare: bool  # headings and nothing else


def whole(text: str) -> list[Section]:
    """All of `text` as one section, none if it is blank."""
    section = _trimmed(text, 0, len(text), (), body=0)
    return [section] if section else []


def of_markdown(text: str) -> list[Section]:
    """The sections of `text` that are not blank; what stands above the first heading is one of its own."""
    found: list[Section | None] = []
    path: list[headings.Heading] = []
    start = body = 0
    for heading in headings.find(text):
        found.append(_trimmed(text, start, heading.start, path, body))
        while path and path[-1].level >= heading.level:
            path.pop()
        path.append(heading)
        start, body = heading.start, heading.end
    found.append(_trimmed(text, start, len(text), path, body))
    return [section for section in found if section]


def join_small(sections: Sequence[Section], *, small_chars: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Spans (start, end) of the text, each of one or more sections.

    A section below `small_chars` joins the next one, or at the end of the text the one before, if both fit `max_chars`.
    A bare heading always does: a span that is too long for it is cut later, and further down than its first line.
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
    """Answers which headings a slice of the text stands under."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = sections
        self._starts = [section.start for section in sections]

    def over(self, start: int, end: int) -> tuple[str, ...]:
        """The headings that all of the slice's sections share; a bare heading counts only if there is nothing else."""
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


def _trimmed(text: str, start: int, end: int, path: Sequence[headings.Heading], body: int) -> Section | None:
    """The section without white space around it, None if nothing is left; its text proper starts at `body`."""
    content = text[start:end].rstrip()
    if not content:
        return None
    end = start + len(content)
    start = end - len(content.lstrip())
    return Section(start, end, tuple(heading.title for heading in path if heading.title), bare=start < body >= end)
