"""The strategy for plain text: chunks of bounded size that overlap."""

from dataclasses import dataclass

from producer.processing.chunk import boundaries, slicer
from producer.processing.chunk.port import TextChunk
from producer.processing.chunk.slicer import DEFAULT_LIMITS, ChunkLimits


@dataclass(frozen=True, slots=True)
class SizeOverlap:
    """`ChunkStrategy` that cuts by size alone; each chunk repeats the last words of the previous one."""

    limits: ChunkLimits = DEFAULT_LIMITS

    @property
    def name(self) -> str:
        return "size-overlap"

    def chunk(self, text: str) -> list[TextChunk]:
        """See `ChunkStrategy.chunk`."""
        slicer.require_unicode(text)
        whole = boundaries.trim(text, 0, len(text))
        if whole is None:
            return []
        return [TextChunk(text[start:end], start, end, ()) for start, end in slicer.slices(text, *whole, self.limits)]
