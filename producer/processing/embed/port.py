"""The port through which text becomes vectors, so that a system can bring its own embedding model."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from producer.processing.errors import ProcessingError


class EmbedError(ProcessingError):
    """Raised when a model cannot be loaded, or a text has no vector.

    `index` is the text's place in the sequence given to `embed`, where one text is at fault.
    """

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason if index is None else f"text {index}: {reason}")
        self.index = index


class Embedder(Protocol):
    """A text embedding model.

    An implementer owes: the same text always has the same vector, whatever stands beside it in the call; memory
    beside the result does not grow with the number or the length of the texts.
    """

    @property
    def model(self) -> str:
        """The name stored when the system is initialised; another name means other vectors."""

    @property
    def dimension(self) -> int:
        """Numbers in one vector."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), each of length 1 (L2 norm), in the order of `texts`.

        Raises EmbedError if a text has no vector; then nothing is returned for the others either.
        """
