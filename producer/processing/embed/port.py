"""The port through which text becomes vectors, so that a system can bring its own embedding model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from producer.processing.errors import ProcessingError


class EmbedError(ProcessingError):
    """Raised when a model cannot be loaded, or a text has no vector. Install the model, or leave out the text.

    `index` is the position of the text that was given to `embed`; None if the model is the cause.
    """

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason if index is None else f"text {index}: {reason}")
        self.index = index


@runtime_checkable
class Embedder(Protocol):
    """A text embedding model.

    An implementer owes: the same text always has the same vector, no matter which other texts the call has; memory
    besides the result does not grow with the number or the length of the texts.
    """

    @property
    def model(self) -> str:
        """The name that `init` stores for the system; another name means other vectors."""

    @property
    def dimension(self) -> int:
        """The number of values in a vector."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return vectors of shape (len(texts), dimension), each of length 1 (L2 norm), in the order of `texts`.

        Raises EmbedError if one text has no vector.
        """
