"""The default model of the embedded profile: static token vectors inside the `wordllama` wheel, nothing is downloaded.

A vector is the normalised sum of its tokens' vectors. The sum is computed here: `WordLlama.embed` pads every text of a
batch to the longest, so its memory has no bound and a vector depends on the other texts.
"""

import importlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from producer.processing.embed.port import EmbedError, check_text

_CONFIG = "l2_supercat"
_DIMENSION = 256
_PIECE_CHARS = 8_192  # a longer text is tokenised in pieces; at most 4 tokens per character, 1 KiB per token
_BATCH_CHARS = 65_536  # per call of the tokenizer


class WordLlamaEmbedder:
    """`Embedder` with the weights inside wordllama: CPU only, made for English. Thread-safe.

    The first `embed` imports the library and reads 16 MB of weights (about a second).
    """

    model = f"wordllama-{_CONFIG}-{_DIMENSION}"
    dimension = _DIMENSION

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See `Embedder.embed`. A blank text and a text that is not valid Unicode have no vector."""
        for index, text in enumerate(texts):
            check_text(text, index)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        with self._lock:
            tokenizer, weights = self._loaded
        for batch in _batches(texts):
            encodings = tokenizer.encode_batch_fast([piece for _, piece in batch], add_special_tokens=False)
            for (index, _), encoding in zip(batch, encodings, strict=True):
                vectors[index] += weights.take(encoding.ids, axis=0).sum(axis=0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not lengths.all():
            raise EmbedError("yields no token, so it has no vector", index=int(np.argmin(lengths)))
        vectors /= lengths
        return vectors

    @cached_property
    def _loaded(self) -> tuple[Any, npt.NDArray[np.float32]]:
        """The tokenizer, and the vectors of its tokens, of shape (vocabulary, dimension)."""
        try:
            with _keep_root_logger():
                library = importlib.import_module("wordllama")
            folder = Path(str(library.__file__)).parent
            # Without cache_dir the library looks for the tokenizer outside its own package.
            inference = library.WordLlama.load(_CONFIG, cache_dir=folder, dim=_DIMENSION, disable_download=True)
        except (ImportError, OSError) as error:
            raise EmbedError(f"cannot load {self.model}: {error}") from error
        inference.tokenizer.no_padding()
        return inference.tokenizer, inference.embedding


def _batches(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Pieces of the texts, each with the index of its text, in batches of at most _BATCH_CHARS characters."""
    batch: list[tuple[int, str]] = []
    chars = 0
    for index, text in enumerate(texts):
        for start in range(0, len(text), _PIECE_CHARS):
            piece = text[start : start + _PIECE_CHARS]
            if chars + len(piece) > _BATCH_CHARS:
                yield batch
                batch, chars = [], 0
            batch.append((index, piece))
            chars += len(piece)
    yield batch


@contextmanager
def _keep_root_logger() -> Iterator[None]:
    """Make `logging.basicConfig` do nothing: wordllama calls it with level INFO when it is imported."""
    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)  # basicConfig does nothing if the root logger has a handler
    try:
        yield
    finally:
        root.removeHandler(placeholder)
