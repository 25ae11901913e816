"""The strategy for prose: chunks of whole sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from producer.processing.chunk import boundaries, slicer
from producer.processing.chunk.packing import pack
from producer.processing.chunk.port import TextChunk
from producer.processing.chunk.sentences import find_ends
from producer.processing.chunk.slicer import DEFAULT_LIMITS, ChunkLimits

_LEAST_PART = 3


@dataclass(frozen=True, slots=True)
class Sentence:
    """`ChunkStrategy` that cuts a sentence only if it is longer than a chunk, and repeats whole sentences.

    It prefers to cut after a paragraph.
    """

    limits: ChunkLimits = DEFAULT_LIMITS

    @property
    def name(self) -> str:
        return "sentence"

    def chunk(self, text: str) -> list[TextChunk]:
        """See `ChunkStrategy.chunk`."""
        slicer.require_unicode(text)
        span = boundaries.trim(text, 0, len(text))
        if span is None:
            return []

        def choose(cuts: Sequence[int]) -> int:
            paragraphs = [cut for cut in cuts if text.startswith("\n\n", cut)]
            return boundaries.choose(text, paragraphs or [*cuts], boundaries.LINE_CONTEXT)

        ends = [*find_ends(text, *span)]
        return make_chunks(text, pack(text, span, ends, self.limits, choose, least_part=_LEAST_PART))


def make_chunks(text: str, spans: Iterable[tuple[int, int]]) -> list[TextChunk]:
    return [TextChunk(text[start:end], start, end, ()) for start, end in spans]
