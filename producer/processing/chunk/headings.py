"""Finds the headings of a Markdown text: titles of documents, and starts of sections.

Headings are the ATX kind of CommonMark 0.31 (section 4.2): one to six `#`, then a space or the end of the line. Lines
inside fenced code blocks (section 4.5) are never headings; an unclosed fence runs to the end of the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from schema import limits

_HEADING_OR_FENCE = re.compile(
    r"^ {0,3}(?:(?P<hashes>#{1,6})(?:[ \t]+(?P<title>[^\n]*))?|(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*))$", re.MULTILINE
)
_LINK_OR_IMAGE = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: its place in the text, in characters, and its title as plain text (may be empty)."""

    start: int  # first character of the line
    end: int  # after the last character of the line, before its newline
    level: int  # 1–6
    title: str


def find(text: str) -> Iterator[Heading]:
    """Yield the headings of `text` in order, in one pass."""
    fence = ""
    for match in _HEADING_OR_FENCE.finditer(text):
        marker = match["fence"]
        if marker is None:
            if not fence:
                yield Heading(match.start(), match.end(), len(match["hashes"]), _plain(match["title"] or ""))
        elif not fence:
            if marker[0] == "~" or "`" not in match["info"]:  # otherwise it is inline code
                fence = marker
        elif marker.startswith(fence) and not match["info"].strip():
            fence = ""


def shorten(title: str) -> str:
    """`title` on one line, at most limits.TITLE_CHARACTERS long, cut between words if it has several."""
    title = " ".join(title.split())
    if len(title) <= limits.TITLE_CHARACTERS:
        return title
    words, space, _ = title[: limits.TITLE_CHARACTERS + 1].rpartition(" ")
    return words if space else title[: limits.TITLE_CHARACTERS]


def _plain(title: str) -> str:
    """A heading's text without closing hashes, link targets, code and emphasis marks."""
    title = title.strip()
    opened = title.rstrip("#")
    if not opened or opened[-1] in " \t":
        title = opened
    title = _LINK_OR_IMAGE.sub(r"\1", _LINK_OR_IMAGE.sub(r"\1", title))  # twice: a link around an image
    return shorten(title.replace("`", "").replace("**", ""))
