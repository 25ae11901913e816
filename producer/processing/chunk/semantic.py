"""The strategy for texts that change their subject: chunks end where neighbouring sentences are least alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from producer.processing.chunk import boundaries, slicer
from producer.processing.chunk.packing import pack
from producer.processing.chunk.port import TextChunk
from producer.processing.chunk.sentence import make_chunks
from producer.processing.chunk.sentences import find_ends
from producer.processing.chunk.slicer import ChunkLimits
from producer.processing.embed.port import Embedder, EmbedError
from schema.batches import bounded

_LIMITS = ChunkLimits(overlap_chars=0)
_LEAST_PART = 5
_WINDOW = 3  # sentences on each side of a place that are compared
_BATCH = 256  # sentences that are embedded together
_SENTENCE_CHARS = 2_000  # of a sentence that are embedded


@dataclass(frozen=True, slots=True)
class Semantic:
    """`ChunkStrategy` that cuts between the sentences whose neighbours are least alike, as `embedder` sees them.

    Chunks do not overlap: a chunk begins where another subject begins. Of the places that the limits allow, the one
    with the lowest similarity is taken, so no threshold needs to be set, and an edit moves only the cuts near it.
    """

    embedder: Embedder
    limits: ChunkLimits = _LIMITS

    @property
    def name(self) -> str:
        return "semantic"

    def chunk(self, text: str) -> list[TextChunk]:
        """See `ChunkStrategy.chunk`. Raises EmbedError if the model cannot be loaded."""
        slicer.require_unicode(text)
        span = boundaries.trim(text, 0, len(text))
        if span is None:
            return []
        if slicer.room_end(text, *span, self.limits) == span[1]:
            return make_chunks(text, [span])
        ends = [*find_ends(text, *span)]
        likeness = dict(zip(ends, self._likeness(text, span, ends), strict=True))

        def choose(cuts: Sequence[int]) -> int:
            return min(reversed(cuts), key=lambda cut: likeness[cut])

        return make_chunks(text, pack(text, span, ends, self.limits, choose, least_part=_LEAST_PART))

    def _likeness(self, text: str, span: tuple[int, int], ends: Sequence[int]) -> list[float]:
        """Cosine of the sums of the vectors before and after each of `ends`."""
        places = [span[0], *ends, span[1]]
        sentences = [text[start:end].strip()[:_SENTENCE_CHARS] for start, end in pairwise(places)]
        sums = np.zeros((len(sentences) + 1, self.embedder.dimension))  # before each sentence, of all earlier ones
        at = 1
        for some in bounded(sentences, _BATCH):
            vectors = self._embed(some)
            sums[at : at + len(some)] = sums[at - 1] + np.cumsum(vectors, axis=0, dtype=np.float64)
            at += len(some)
        return [
            _cosine(
                sums[number] - sums[max(number - _WINDOW, 0)],
                sums[min(number + _WINDOW, len(sentences))] - sums[number],
            )
            for number in range(1, len(sentences))
        ]

    def _embed(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of sentences; zeros for one without a vector, for instance a line of dashes."""
        vectors = np.zeros((len(sentences), self.embedder.dimension), dtype=np.float32)
        left = [index for index, sentence in enumerate(sentences) if sentence]
        while left:
            try:
                vectors[left] = self.embedder.embed([sentences[index] for index in left])
                break
            except EmbedError as error:
                if error.index is None:
                    raise
                del left[error.index]
        return vectors


def _cosine(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(before) * np.linalg.norm(after))
    return float(before @ after) / lengths if lengths > 0 else 1.0
