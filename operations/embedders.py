"""Makes the embedder that the settings name. Nothing is loaded, fetched or asked before it embeds its first text."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from operations.settings import Settings
from schema.object_store.port import ObjectStore

if TYPE_CHECKING:
    from producer.processing.embed.port import Embedder


def make_embedder(settings: Settings, engine: Engine, store: Callable[[], ObjectStore]) -> "Embedder | None":
    """None if the settings name no embedder. `store` opens the bucket, which may have the files of a model.

    Embeddings that cost something go through the cache. A prefix is part of the text that the cache knows.
    """
    made: Embedder
    match settings.embedder:
        case "bge-m3":
            made = _make_bge_m3(settings, store)
        case "openai":
            made = _make_openai(settings)
        case "none":
            return None
        case _:  # a lookup in the cache would cost more than wordllama does
            return _make_wordllama(settings)
    if settings.embedding_cache_rows:
        from producer.processing.embed.cache import CachedEmbedder

        made = CachedEmbedder(made, engine, most_rows=settings.embedding_cache_rows)
    if settings.embedder_query_prefix or settings.embedder_passage_prefix:
        from producer.processing.embed.prefixes import PrefixedEmbedder

        query, passage = settings.embedder_query_prefix or "", settings.embedder_passage_prefix or ""
        made = PrefixedEmbedder(made, query=query, passage=passage)
    return made


def _make_wordllama(settings: Settings) -> "Embedder | None":
    from producer.processing.embed.wordllama import WordLlamaEmbedder

    ours = WordLlamaEmbedder()
    return ours if ours.model == settings.embedding_model else None


def _make_bge_m3(settings: Settings, store: Callable[[], ObjectStore]) -> "Embedder":
    from producer.processing.embed.bge_m3 import MODEL, BgeM3Embedder

    def fetch() -> Path:
        from operations.model_files.fetch import fetch_model

        return fetch_model(store(), MODEL, settings.data_dir / "models")

    return BgeM3Embedder(
        settings.embedder_folder or fetch,
        threads=settings.embedder_threads,
        most_tokens=settings.embedder_max_tokens,
    )


def _make_openai(settings: Settings) -> "Embedder":
    from producer.processing.embed.openai_compatible import OpenAiEmbedder

    return OpenAiEmbedder(
        settings.embedder_url or "",
        settings.embedding_model,
        settings.vector_dimension,
        key=settings.embedder_key.get_secret_value() if settings.embedder_key else None,
        server_model=settings.embedder_model,
        read_seconds=settings.embedder_timeout_seconds,
    )
