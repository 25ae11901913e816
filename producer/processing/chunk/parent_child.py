"""The strategy of two sizes: small chunks that are found exactly, inside large ones that give the context."""

from collections.abc import Iterator
from dataclasses import dataclass

from producer.processing.chunk import slicer
from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.chunk.port import TextChunk
from producer.processing.chunk.slicer import ChunkLimits

_PARENTS = ChunkLimits(max_chars=3_000, overlap_chars=0, max_bytes=16 * 1024)
_CHILDREN = ChunkLimits(max_chars=500, overlap_chars=50)


@dataclass(frozen=True, slots=True)
class ParentChild:
    """`ChunkStrategy` that cuts a text at its headings into parents, and each parent into children.

    A parent that fits a child has none. A search that finds a child shows its parent to the reader.
    """

    parents: ChunkLimits = _PARENTS
    children: ChunkLimits = _CHILDREN

    def __post_init__(self) -> None:
        if self.children.max_chars > self.parents.max_chars or self.children.max_bytes > self.parents.max_bytes:
            raise ValueError("children must not be larger than parents")

    @property
    def name(self) -> str:
        return "parent-child"

    def chunk(self, text: str) -> list[TextChunk]:
        """See `ChunkStrategy.chunk`."""
        return [*self._chunks(text)]

    def _chunks(self, text: str) -> Iterator[TextChunk]:
        position = 0
        for parent in MarkdownHeadings(self.parents).chunk(text):
            yield parent
            spans = [*slicer.slices(text, parent.start, parent.end, self.children)]
            if len(spans) > 1:
                for start, end in spans:
                    yield TextChunk(text[start:end], start, end, parent.headings, parent=position)
                position += len(spans)
            position += 1
