"""An embedder around another one: the model is that of the inner embedder, and so is everything not overridden."""

from collections.abc import Sequence

from producer.processing.embed.port import Embedded, Embedder, Vectors, embed_both, embed_query, gives_weights


class EmbedderAround:
    """Passes everything on to `embedder`; a subclass overrides `embed_both` or `embed_query`."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> str:
        return self._embedder.model

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    @property
    def gives_weights(self) -> bool:
        return gives_weights(self._embedder)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        return self.embed_both(texts).vectors

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`."""
        return embed_both(self._embedder, texts)

    def embed_query(self, text: str) -> Vectors:
        """See `QueryEmbedder.embed_query`."""
        return embed_query(self._embedder, text)
