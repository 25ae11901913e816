"""The port through which text becomes vectors, so that a system can bring its own embedding model.

`Embedder` is all that the writer needs. `SparseEmbedder` and `QueryEmbedder` are optional: `embed_both` and
`embed_query` use them where an embedder has them, so that every caller can treat all embedders alike.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from producer.errors import ProducerError
from producer.processing.errors import ProcessingError
from schema.failures import Retryable

Vectors = npt.NDArray[np.float32]
Weights = Mapping[int, float]  # token id → weight, each above 0; as `Chunk.sparse`


class EmbedError(ProcessingError):
    """Raised when a model cannot be loaded, or a text has no vector. Install the model, or leave out the text.

    `index` is the position of the text that was given to `embed`; None if the model is the cause.
    """

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason if index is None else f"text {index}: {reason}")
        self.reason = reason
        self.index = index

    def moved(self, steps: int) -> "EmbedError":
        """The same error for a list in which the text stands so many positions later."""
        return self if self.index is None else EmbedError(self.reason, index=self.index + steps)


class EmbedderUnavailable(ProducerError, Retryable):
    """Raised when an embedder cannot work now: its server is away or busy. The same call may succeed later."""


class Embedded(NamedTuple):
    """The result for a list of texts, in their order."""

    vectors: Vectors  # (number of texts, dimension)
    weights: Sequence[Weights] | None  # one mapping per text; None if the embedder gives no sparse weights


@runtime_checkable
class Embedder(Protocol):
    """A text embedding model.

    An implementer owes: the same text has the same vector, but for rounding noise, no matter which other texts the call
    has; memory besides the result does not grow with the number of texts.
    """

    @property
    def model(self) -> str:
        """The name that `init` stores for the system; another name means other vectors."""

    @property
    def dimension(self) -> int:
        """The number of values in a vector."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of shape (len(texts), dimension), each of length 1 (L2 norm), in the order of `texts`.

        The texts are passages: what a document says. Raises EmbedError if one text has no vector, and
        EmbedderUnavailable if the same call may succeed later.
        """


@runtime_checkable
class SparseEmbedder(Protocol):
    """An embedder that can make sparse weights in the same pass as the vectors, such as BGE-M3."""

    @property
    def gives_weights(self) -> bool:
        """Whether `embed_both` returns weights. False for a wrapper around an embedder without them."""

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """As `Embedder.embed`, with at most `limits.SPARSE_ENTRIES` weights per text."""


@runtime_checkable
class QueryEmbedder(Protocol):
    """An embedder to which a question is not the same as a passage, such as e5."""

    def embed_query(self, text: str) -> Vectors:
        """Return the vector, of shape (dimension,), that finds the passages which answer `text`. Raises as `embed`."""


def gives_weights(embedder: Embedder) -> bool:
    return isinstance(embedder, SparseEmbedder) and embedder.gives_weights


def embed_both(embedder: Embedder, texts: Sequence[str]) -> Embedded:
    """Vectors of passages, and their sparse weights if the embedder gives them. Raises as `Embedder.embed`."""
    if isinstance(embedder, SparseEmbedder):
        return embedder.embed_both(texts)
    return Embedded(embedder.embed(texts), None)


def embed_query(embedder: Embedder, text: str) -> Vectors:
    """The vector of a question; without a form of its own it is that of a passage. Raises as `Embedder.embed`."""
    if isinstance(embedder, QueryEmbedder):
        return embedder.embed_query(text)
    vector: Vectors = embedder.embed([text])[0]
    return vector


def check_text(text: str, index: int) -> None:
    """Raises EmbedError for a text that no model has a vector of: a blank one, or one that is not valid Unicode."""
    if not text or text.isspace():
        raise EmbedError("is blank, so it has no vector", index=index)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EmbedError(f"lone surrogate at character {error.start}", index=index) from error
