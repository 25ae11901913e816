"""The strategy for Markdown: a text is cut at its headings first, then by size."""

from dataclasses import dataclass

from producer.processing.chunk import sections, slicer
from producer.processing.chunk.port import TextChunk
from producer.processing.chunk.slicer import DEFAULT_LIMITS, ChunkLimits


@dataclass(frozen=True, slots=True)
class MarkdownHeadings:
    """`ChunkStrategy` that never lets chunks overlap across a heading. Small sections share a chunk."""

    limits: ChunkLimits = DEFAULT_LIMITS

    @property
    def name(self) -> str:
        return "markdown-headings"

    def chunk(self, text: str) -> list[TextChunk]:
        """See `ChunkStrategy.chunk`."""
        slicer.require_unicode(text)
        found = sections.find(text)
        index = sections.HeadingIndex(found)
        spans = sections.join_small(found, small_chars=self.limits.small_chars, max_chars=self.limits.max_chars)
        return [
            TextChunk(text[start:end], start, end, index.shared_headings(start, end))
            for span in spans
            for start, end in slicer.slices(text, *span, self.limits)
        ]
