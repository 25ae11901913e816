"""Every chunk strategy keeps its promises: exact slices, nothing lost, bounded sizes, edits that change little."""

import random
import re
import statistics
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operations.cli import ingest
from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.chunk.parent_child import ParentChild
from producer.processing.chunk.port import ChunkStrategy, TextChunk
from producer.processing.chunk.semantic import Semantic
from producer.processing.chunk.sentence import Sentence
from producer.processing.chunk.size_overlap import SizeOverlap
from producer.processing.chunk.slicer import ChunkLimits
from producer.processing.chunk.strategies import NAMES, make_strategy
from producer.processing.embed.port import Embedder, EmbedError
from producer.processing.embed.wordllama import WordLlamaEmbedder
from schema.limits import CHUNK_STRATEGY_CHARACTERS
from tests.support.texts import TEXT, long_text

pytestmark = pytest.mark.unit


class WordCounts:
    """`Embedder` that counts words: alike texts share words. A text without a letter has no vector."""

    model = "word-counts-64"
    dimension = 64

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            words = re.findall(r"\w+", text)
            if not words:
                raise EmbedError("yields no token", index=index)
            for word in words:
                vectors[index, zlib.crc32(word.lower().encode()) % self.dimension] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


EMBEDDER: Embedder = WordCounts()
OTHERS = ("sentence", "semantic", "parent-child")  # test_processing_chunking.py has the same for the other two


def make(name: str, limits: ChunkLimits) -> ChunkStrategy:
    match name:
        case "size-overlap":
            return SizeOverlap(limits)
        case "markdown-headings":
            return MarkdownHeadings(limits)
        case "sentence":
            return Sentence(limits)
        case "semantic":
            return Semantic(EMBEDDER, limits)
        case _:
            large = ChunkLimits(4 * limits.max_chars, 0, 4 * limits.max_bytes)
            return ParentChild(large, limits)


@st.composite
def all_limits(draw: st.DrawFn) -> ChunkLimits:
    max_chars = draw(st.integers(1, 150))
    return ChunkLimits(max_chars, draw(st.integers(0, max_chars // 2)), draw(st.integers(4, 300)))


def assert_covers(text: str, chunks: Sequence[TextChunk]) -> None:
    covered: set[int] = set()
    for each in chunks:
        assert text[each.start : each.end] == each.content == each.content.strip() != ""
        covered.update(range(each.start, each.end))
    assert all(at in covered for at, character in enumerate(text) if not character.isspace())


@pytest.mark.parametrize("name", ["sentence", "semantic"])
@settings(deadline=None)  # a shared machine may stall
@given(text=TEXT, limits=all_limits())
def test_chunks_cover_every_text_in_order_within_limits(name: str, text: str, limits: ChunkLimits) -> None:
    chunks = make(name, limits).chunk(text)
    assert_covers(text, chunks)
    for each in chunks:
        assert len(each.content) <= limits.max_chars
        assert len(each.content.encode()) <= limits.max_bytes
        assert each.parent is None
    for earlier, later in pairwise(chunks):
        assert earlier.start < later.start
        assert earlier.end < later.end
        assert earlier.end - later.start <= limits.overlap_chars


@settings(deadline=None)  # a shared machine may stall
@given(text=TEXT, limits=all_limits())
def test_children_cover_their_parents_and_parents_the_text(text: str, limits: ChunkLimits) -> None:
    chunks = make("parent-child", limits).chunk(text)
    assert_covers(text, [each for each in chunks if each.parent is None])
    for position, each in enumerate(chunks):
        children = [child for child in chunks if child.parent == position]
        if each.parent is not None:
            parent = chunks[each.parent]
            assert each.parent < position
            assert parent.parent is None
            assert parent.start <= each.start < each.end <= parent.end
            assert (each.start, each.end) != (parent.start, parent.end)
            assert len(each.content) <= limits.max_chars
        elif children:
            covered = {at for child in children for at in range(child.start, child.end)}
            assert all(at in covered for at in range(each.start, each.end) if not text[at].isspace())
        else:
            assert len(each.content) <= limits.max_chars


def test_sentences_are_kept_whole_and_repeated_whole() -> None:
    text = "Alpha is first. Dr. Beta comes second. Gamma is third. Delta is fourth. Epsilon is last."
    found = [each.content for each in Sentence(ChunkLimits(60, 25)).chunk(text)]
    assert found[0] == "Alpha is first. Dr. Beta comes second. Gamma is third."
    assert found[1] == "Gamma is third. Delta is fourth. Epsilon is last."


def test_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    text = "Short one. Many " + "words " * 25 + "end. Another short one."
    found = [each.content for each in Sentence(ChunkLimits(60, 0)).chunk(text)]
    assert found[0] == "Short one."
    assert found[-1] == "Another short one."
    assert all(not piece.startswith(("ords", "rds")) and len(piece) <= 60 for piece in found)


def test_semantic_cuts_where_the_subject_changes() -> None:
    leave = "Paid leave is twenty days. Ask for leave two weeks before. Leave that is not used is paid. "
    printers = "The printer is upstairs. A printer without paper blinks. Fill the printer with paper. "
    text = leave * 3 + printers * 3 + leave * 3
    found = Semantic(EMBEDDER, ChunkLimits(400, 0)).chunk(text)
    assert [each.content.count("eave") > 0 for each in found] == [True, False, True]
    assert [each.content.count("rinter") > 0 for each in found] == [False, True, False]


def test_semantic_works_with_the_embedded_model() -> None:
    text = "Milvus stores vectors. It searches them. " * 19 + "Bread is baked in an oven. Flour comes from wheat. " * 15
    found = Semantic(WordLlamaEmbedder()).chunk(text)
    assert len(found) == 2
    assert found[1].content.startswith("Bread")


def test_sentences_without_a_vector_do_not_matter() -> None:
    text = ("Words of one subject. " * 10 + "\n\n---\n\n***\n\n") * 6
    assert_covers(text, Semantic(EMBEDDER, ChunkLimits(300, 0)).chunk(text))


def test_parent_that_fits_a_child_stands_alone() -> None:
    found = ParentChild().chunk("# A\n\nOne short text.")
    assert [(each.parent, each.headings) for each in found] == [(None, ("A",))]


def test_children_larger_than_parents_are_refused() -> None:
    with pytest.raises(ValueError, match="children must not be larger than parents"):
        ParentChild(ChunkLimits(100, 0), ChunkLimits(101, 0))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["lines", "sentences"])
def test_edit_changes_only_chunks_near_it(name: str, kind: str) -> None:
    text = long_text(kind)[:30_000]
    strategy = make_strategy(name, EMBEDDER)
    before = {each.content for each in strategy.chunk(text)}
    places = random.Random(1)
    changed = []
    for number in range(4):
        at = 0 if number == 0 else places.randrange(len(text))
        if kind == "lines":
            at = text.rfind("\n", 0, at) + 1
        added = "one more line, as long as the others, with a number: 1234567\n" if kind == "lines" else "中文"
        for edit in (text[:at] + added + text[at:], text[:at] + text[at + len(added) :]):
            changed.append(len({each.content for each in strategy.chunk(edit)} - before))
    most = 9 if name == "parent-child" else 5  # a parent of 3,000 characters and its children
    assert statistics.mean(changed) <= most / 2
    assert max(changed) <= most


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("unit", ["x", "\n", "a. ", "。"], ids=ascii)
def test_hostile_texts_take_linear_time(name: str, unit: str) -> None:
    text = "# " + unit * (200_000 // len(unit))  # quadratic time would exceed the test's timeout
    assert len(make_strategy(name, EMBEDDER).chunk(text)) <= 4 * len(text) / 200


def test_lone_surrogate_is_refused() -> None:
    for name in NAMES:
        with pytest.raises(ValueError, match="lone surrogate at character 2"):
            make_strategy(name, EMBEDDER).chunk("ab\ud800")


def test_names_fit_the_column_and_the_command() -> None:
    assert ingest.STRATEGIES == NAMES
    assert [make_strategy(name, EMBEDDER).name for name in NAMES] == [*NAMES]
    assert all(len(name) <= CHUNK_STRATEGY_CHARACTERS for name in NAMES)


def test_unusable_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'best': choose one of size-overlap, "):
        make_strategy("best")
    with pytest.raises(ValueError, match="semantic needs an embedding model"):
        make_strategy("semantic")
