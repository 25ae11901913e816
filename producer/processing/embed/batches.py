"""Batches of texts, bounded in number and in characters, and the wrapper that reports how far they are."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from producer.processing.embed.around import EmbedderAround
from producer.processing.embed.port import Embedded, Embedder, EmbedError, Weights, embed_both

BATCH_TEXTS = 64
BATCH_CHARS = 64 * 1024  # Unicode characters


def split(
    texts: Sequence[str], *, most_texts: int = BATCH_TEXTS, most_chars: int = BATCH_CHARS
) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the position of each batch in `texts`, and the batch. A longer text gets a batch of its own."""
    start = chars = 0
    for index, text in enumerate(texts):
        if index > start and (index - start == most_texts or chars + len(text) > most_chars):
            yield start, texts[start:index]
            start, chars = index, 0
        chars += len(text)
    if start < len(texts):
        yield start, texts[start:]


def join(batches: Sequence[Embedded], dimension: int) -> Embedded:
    """One result of several. Without weights as soon as one of them has none."""
    if not batches:
        return Embedded(np.zeros((0, dimension), dtype=np.float32), None)
    weights: list[Weights] = []
    for batch in batches:
        if batch.weights is None:
            return Embedded(np.concatenate([one.vectors for one in batches]), None)
        weights += batch.weights
    return Embedded(np.concatenate([one.vectors for one in batches]), weights)


class ReportingEmbedder(EmbedderAround):
    """Embeds in batches, and calls `report` with the number of texts of each finished batch."""

    def __init__(self, embedder: Embedder, report: Callable[[int], None]) -> None:
        super().__init__(embedder)
        self._report = report

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`."""
        done = []
        for start, batch in split(texts):
            try:
                done.append(embed_both(self._embedder, batch))
            except EmbedError as error:
                raise error.moved(start) from error
            self._report(len(batch))
        return join(done, self.dimension)
