"""Instructions that a model expects in front of a text: e5 wants `query: ` and `passage: `, BGE-M3 none."""

from collections.abc import Sequence

from producer.processing.embed.port import Embedded, Embedder, Vectors, check_text, embed_both, embed_query
from producer.processing.embed.port import gives_weights as embedder_gives_weights


class PrefixedEmbedder:
    """Puts one prefix in front of each passage and another one in front of a question."""

    def __init__(self, embedder: Embedder, *, query: str = "", passage: str = "") -> None:
        self._embedder = embedder
        self._query = query
        self._passage = passage

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    @property
    def gives_weights(self) -> bool:
        return embedder_gives_weights(self._embedder)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        return self.embed_both(texts).vectors

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`."""
        for index, text in enumerate(texts):
            check_text(text, index)  # with a prefix, a blank one is not blank any more
        return embed_both(self._embedder, [f"{self._passage}{text}" for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """See `QueryEmbedder.embed_query`."""
        return embed_query(self._embedder, f"{self._query}{text}")
