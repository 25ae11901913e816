"""Compare the chunk strategies by known-item retrieval on files of your own: `python -m benchmarks.chunking FOLDER…`.

A known item is a sentence of a file. The question is some of its words, without the others and in another order; the
answer is right if a chunk that holds the sentence is among the five best of all chunks. The embedder is the built-in
one. Questions are the same for every strategy and in every run.
"""

import argparse
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from producer.documents import Chunk
from producer.processing.chunk.document import chunk_document
from producer.processing.chunk.sentences import find_ends
from producer.processing.chunk.strategies import NAMES, make_strategy
from producer.processing.embed.wordllama import WordLlamaEmbedder
from producer.processing.extract.extract import FileExtractor, is_supported
from producer.processing.extract.port import Extracted, ExtractError

_PER_FILE = 3  # known items
_WORDS = range(8, 40)  # of a sentence that is a known item
_KEPT = 0.5  # of its words, in the question
_BEST = 5
_BATCH = 256


@dataclass(frozen=True)
class Item:
    """A sentence of a file, and the question for it."""

    file: int
    start: int
    end: int
    question: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of files that rag-outbox ingests")
    parser.add_argument("--limit", type=int, default=1_000, help="the highest number of files [1000]")
    options = parser.parse_args()
    console = Console(width=100)
    found = _extract([path for folder in options.folders for path in folder.rglob("*")], options.limit, console)
    items = _choose_items(found)
    console.print(f"{len(items)} known items in {len(found)} files")
    table = Table(title="known-item retrieval by chunk strategy")
    for column in ("strategy", "chunks", "chars per chunk", "chunk s", "embed chunks/s", "recall@5", "MRR@5"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for name in NAMES:
        table.add_row(name, *_measure(name, found, items))
    console.print(table)


def _extract(paths: Sequence[Path], limit: int, console: Console) -> list[Extracted]:
    """The content of the files that can be read; prints the rate per type, and why others cannot."""
    files = sorted(path for path in paths if path.is_file() and is_supported(path))[:limit]
    found: list[Extracted] = []
    seconds: dict[str, float] = {}
    failed: list[str] = []
    with FileExtractor() as extractor:
        for path in files:
            began = time.monotonic()
            try:
                one = extractor.extract(path)
            except ExtractError as error:
                failed.append(f"{path.name}: {error.reason}")
                continue
            seconds[one.source_type] = seconds.get(one.source_type, 0.0) + time.monotonic() - began
            found.append(one)
    for source_type, spent in sorted(seconds.items()):
        some = [one for one in found if one.source_type == source_type]
        size = sum(one.size_bytes for one in some) / 1_000_000
        tables = sum(len(one.tables) for one in some)
        console.print(
            f"{source_type}: {len(some)} files, {size:.1f} MB, {sum(len(one.text) for one in some):,} characters, "
            f"{tables} tables, {len(some) / spent:.1f} files/s"
        )
    console.print(f"{len(failed)} files not read", *failed, sep="\n  ")
    return found


def _choose_items(found: Sequence[Extracted]) -> list[Item]:
    numbers = random.Random(20)
    items = []
    for file, one in enumerate(found):
        tables = [(table.start, table.end) for table in one.tables if table.start is not None and table.end is not None]
        places = [0, *find_ends(one.text, 0, len(one.text)), len(one.text)]
        usable = [
            (start, end)
            for start, end in pairwise(places)
            if len(re.findall(r"\w+", one.text[start:end])) in _WORDS
            and not any(start < last and first < end for first, last in tables)
        ]
        for start, end in numbers.sample(usable, min(_PER_FILE, len(usable))):
            words = re.findall(r"\w+", one.text[start:end])
            kept = numbers.sample(words, max(4, round(_KEPT * len(words))))
            blank = len(one.text[start:end]) - len(one.text[start:end].lstrip())
            items.append(Item(file, start + blank, end, " ".join(kept)))
    return items


def _measure(name: str, found: Sequence[Extracted], items: Sequence[Item]) -> list[str]:
    embedder = WordLlamaEmbedder()
    embedder.embed(["load the model"])
    strategy = make_strategy(name, embedder)
    began = time.monotonic()
    chunks = [(file, chunk) for file, one in enumerate(found) for chunk in chunk_document(str(file), one, strategy)]
    chunked = time.monotonic()
    vectors = _embed(embedder, [chunk.content for _, chunk in chunks])
    embedded = time.monotonic()
    questions = _embed(embedder, [item.question for item in items])
    files = np.array([file for file, _ in chunks])
    ranks = []
    for item, question in zip(items, questions, strict=True):
        likeness = vectors @ question
        some = np.argpartition(-likeness, _BEST)[:_BEST]
        best = some[np.argsort(-likeness[some], kind="stable")]
        right = (rank for rank, at in enumerate(best, 1) if files[at] == item.file and _holds(chunks[at][1], item))
        ranks.append(next(right, 0))
    return [
        f"{len(chunks):,}",
        f"{sum(len(chunk.content) for _, chunk in chunks) / len(chunks):.0f}",
        f"{chunked - began:.1f}",
        f"{len(chunks) / (embedded - chunked):,.0f}",
        f"{sum(rank > 0 for rank in ranks) / len(ranks):.3f}",
        f"{sum(1 / rank for rank in ranks if rank) / len(ranks):.3f}",
    ]


def _holds(chunk: Chunk, item: Item) -> bool:
    """Whether a chunk holds at least half of the sentence."""
    if chunk.start_char is None:
        return False
    shared = min(chunk.start_char + len(chunk.content), item.end) - max(chunk.start_char, item.start)
    return 2 * shared >= item.end - item.start


def _embed(embedder: WordLlamaEmbedder, texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([embedder.embed(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)])


if __name__ == "__main__":
    main()
