"""Instructions that a model expects in front of a text: e5 wants `query: ` and `passage: `, BGE-M3 none."""

from collections.abc import Sequence

from producer.processing.embed.around import EmbedderAround
from producer.processing.embed.port import Embedded, Embedder, Vectors, check_text, embed_both, embed_query


class PrefixedEmbedder(EmbedderAround):
    """Puts one prefix in front of each passage and another one in front of a question."""

    def __init__(self, embedder: Embedder, *, query: str = "", passage: str = "") -> None:
        super().__init__(embedder)
        self._query = query
        self._passage = passage

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`."""
        for index, text in enumerate(texts):
            check_text(text, index)  # with a prefix, a blank one is not blank any more
        return embed_both(self._embedder, [f"{self._passage}{text}" for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """See `QueryEmbedder.embed_query`."""
        return embed_query(self._embedder, f"{self._query}{text}")
