"""The port through which text becomes chunks, so that every kind of document can be cut by a strategy of its own."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A slice of a text: `text[start:end] == content`, offsets in characters, no white space at either end."""

    content: str
    start: int
    end: int
    headings: tuple[str, ...]  # titles of the Markdown headings above all of the content, outermost first
    parent: int | None = None  # position in the list of the larger chunk that contains this one


class ChunkStrategy(Protocol):
    """Cuts a text into chunks that are small enough to embed and large enough to carry meaning.

    An implementer owes: only white space is left out, chunks are in the order of the text (a parent before its
    children), the same text always has the same chunks, an edit changes only chunks near it, and time is linear in the
    length of the text.
    """

    @property
    def name(self) -> str:
        """The value of `chunks.chunk_strategy`, at most 32 characters."""

    def chunk(self, text: str) -> list[TextChunk]:
        """Cut `text` into chunks; a blank text has none.

        Raises ValueError if UTF-8 cannot encode the text (a lone surrogate).
        """
