"""The strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.chunk.parent_child import ParentChild
from producer.processing.chunk.port import ChunkStrategy
from producer.processing.chunk.semantic import Semantic
from producer.processing.chunk.sentence import Sentence
from producer.processing.chunk.size_overlap import SizeOverlap
from producer.processing.embed.port import Embedder

_WITHOUT_EMBEDDER: Mapping[str, Callable[[], ChunkStrategy]] = MappingProxyType(
    {
        "size-overlap": SizeOverlap,
        "markdown-headings": MarkdownHeadings,
        "sentence": Sentence,
        "parent-child": ParentChild,
    }
)
SEMANTIC = "semantic"
NAMES = (*_WITHOUT_EMBEDDER, SEMANTIC)


def make_strategy(name: str, embedder: Embedder | None = None) -> ChunkStrategy:
    """The strategy with its default sizes; `semantic` needs an embedder. Raises ValueError."""
    if name == SEMANTIC:
        if embedder is None:
            raise ValueError("the strategy semantic needs an embedding model")
        return Semantic(embedder)
    if name not in _WITHOUT_EMBEDDER:
        raise ValueError(f"unknown strategy {name!r}: choose one of {', '.join(NAMES)}")
    return _WITHOUT_EMBEDDER[name]()


def default_name(*, is_markdown: bool) -> str:
    """The strategy for a text if none is chosen."""
    return "markdown-headings" if is_markdown else "size-overlap"
