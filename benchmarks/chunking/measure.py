"""Cuts and embeds a whole corpus with one strategy, and ranks its chunks for every question.

A chunk is right if it is of the right file and holds at least half of the answer. The rank of an answer is that of its
best right chunk among the chunks of all files; other chunks that are as near to the question count against it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.chunking.passages import Item
from producer.documents import Chunk
from producer.processing.chunk.document import chunk_document
from producer.processing.chunk.strategies import NAMES, default_name, make_strategy
from producer.processing.embed.port import Embedder, EmbedError
from producer.processing.extract.port import Extracted

DEFAULT = "default"
STRATEGIES = (DEFAULT, *NAMES)
BEST = 5
READ_CHARACTERS = 4_000  # of the best chunks together: what a reader, or the prompt of a model, has room for
_MOST_READ = 256  # chunks that are looked at for that
_QUESTIONS = 128  # that are compared at once
_BATCH = 256  # chunks per call of the embedder

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Searched:
    """All chunks of a corpus with their vectors, and what they cost."""

    chunks: Sequence[tuple[int, Chunk]]  # with the number of the file
    vectors: Floats
    chunk_seconds: float
    embed_seconds: float
    without_vector: int  # chunks that the model has no vector for; no question finds them

    @property
    def facts(self) -> dict[str, float]:
        """For the result."""
        count = len(self.chunks)
        characters = sum(len(chunk.content) for _, chunk in self.chunks)
        of_text = [len(chunk.content) for _, chunk in self.chunks if chunk.modal_type != "table"]
        return {
            "chunks": count,
            "text_chunks": len(of_text),
            "characters_per_text_chunk": round(sum(of_text) / max(len(of_text), 1)),
            "characters": characters,
            "without_vector": self.without_vector,
            "chunks_cut_per_second": round(count / self.chunk_seconds),
            "chunks_embedded_per_second": round(count / self.embed_seconds),
            "characters_embedded_per_second": round(characters / self.embed_seconds),
        }


@dataclass(frozen=True)
class Answer:
    """How an answer was found."""

    rank: int  # from 1; 0: no chunk holds it
    is_read: bool  # whether it is in the first READ_CHARACTERS of the best chunks


def search_with(name: str, files: Sequence[Extracted], embedder: Embedder) -> Searched:
    """Chunk all files with the strategy of this name and embed the chunks."""
    embedder.embed(["load the model"])
    began = time.monotonic()
    chunks = [(number, chunk) for number, one in enumerate(files) for chunk in _chunk(name, str(number), one, embedder)]
    chunked = time.monotonic()
    vectors, without_vector = _embed(embedder, [chunk.content for _, chunk in chunks])
    return Searched(chunks, vectors, chunked - began, time.monotonic() - chunked, without_vector)


def _chunk(name: str, doc_id: str, one: Extracted, embedder: Embedder) -> list[Chunk]:
    used = default_name(is_markdown=one.is_markdown) if name == DEFAULT else name
    return chunk_document(doc_id, one, make_strategy(used, embedder))


def find_answers(searched: Searched, items: Sequence[Item], embedder: Embedder) -> list[Answer]:
    """How well each item was found, in their order."""
    questions, _ = _embed(embedder, [item.question for item in items])
    right = _find_right_chunks(searched, items)
    lengths = np.array([len(chunk.content) for _, chunk in searched.chunks])
    answers = []
    for start in range(0, len(items), _QUESTIONS):
        likeness = questions[start : start + _QUESTIONS] @ searched.vectors.T
        answers += [
            Answer(rank_of(row, some), is_read(row, some, lengths))
            for row, some in zip(likeness, right[start : start + _QUESTIONS], strict=True)
        ]
    return answers


def rank_of(likeness: Floats, right: Sequence[int]) -> int:
    """The rank of the best of the right chunks, from 1; 0 if there is none."""
    if not right:
        return 0
    theirs = likeness[[*right]]
    best = theirs.max()
    return int((likeness >= best).sum() - (theirs >= best).sum()) + 1


def is_read(likeness: Floats, right: Sequence[int], lengths: npt.NDArray[np.int64]) -> bool:
    """Whether a right chunk is among the best ones that have at most READ_CHARACTERS together."""
    some = np.argpartition(-likeness, min(_MOST_READ, len(likeness)) - 1)[:_MOST_READ]
    some = some[np.argsort(-likeness[some], kind="stable")]
    read = some[np.cumsum(lengths[some]) <= READ_CHARACTERS]
    return not set(right).isdisjoint(read.tolist())


def _find_right_chunks(searched: Searched, items: Sequence[Item]) -> list[list[int]]:
    of_file: dict[int, list[int]] = {}
    for position, (file, _) in enumerate(searched.chunks):
        of_file.setdefault(file, []).append(position)
    return [
        [position for position in of_file.get(item.file, ()) if holds(searched.chunks[position][1], item)]
        for item in items
    ]


def holds(chunk: Chunk, item: Item) -> bool:
    """Whether a chunk of the item's file holds at least half of its answer."""
    if chunk.start_char is None:
        return False
    shared = min(chunk.start_char + len(chunk.content), item.end) - max(chunk.start_char, item.start)
    return 2 * shared >= item.end - item.start


def _embed(embedder: Embedder, texts: Sequence[str]) -> tuple[Floats, int]:
    """The vectors of all texts, and how many of them have none: these get zeros."""
    vectors = np.zeros((len(texts), embedder.dimension), np.float32)
    without = 0
    for start in range(0, len(texts), _BATCH):
        left = [*range(start, min(start + _BATCH, len(texts)))]
        while left:
            try:
                vectors[left] = embedder.embed([texts[at] for at in left])
                break
            except EmbedError as error:
                if error.index is None:
                    raise
                del left[error.index]
                without += 1
    return vectors, without
