"""Whether many similar rows of tables hide other documents from a search, and what a search costs.

The texts are docstrings of Python's standard library; a question is the first line of one, and its passage must be
among the five best hits. The same questions are asked before and after the tables are written; others ask for a row.
The reference is one request to Milvus, and an index without a graph (FLAT). numpy computes the exact answers.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from pymilvus import MilvusClient

from benchmarks import report
from benchmarks.consumer import marked
from benchmarks.embedding import docstrings
from benchmarks.relay import empty
from benchmarks.system import PREFIX, System, servers, system, wait_until
from producer import Chunk, Document, Writer
from producer.processing.chunk.table_levels import chunk_table
from producer.processing.embed.wordllama import WordLlamaEmbedder
from producer.processing.extract.port import Table
from retrieval import search as search_module
from retrieval.search import Filters, Hit, search
from schema import collection
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS

Vectors = npt.NDArray[np.float32]
Search = Callable[[Vectors], list[Hit]]
BEST = 5
PASSAGES = 10  # per document of texts
SHEET_ROWS = 12_500  # per table: as many as get a chunk per row
BATCH = 512
REGIONS = ("North", "South", "East", "West", "Central")


@dataclass
class Corpus:
    """Texts and rows with their vectors; `embed` is that of the model that all of them come from."""

    embedder: WordLlamaEmbedder
    contents: list[str]
    vectors: Vectors

    def add(self, contents: Sequence[str]) -> list[Chunk]:
        vectors = self.embed(contents)
        self.contents.extend(contents)
        self.vectors = np.concatenate([self.vectors, vectors])
        return [Chunk(content=text, vector=vector) for text, vector in zip(contents, vectors, strict=True)]

    def embed(self, contents: Sequence[str]) -> Vectors:
        return np.concatenate([self.embedder.embed(contents[at : at + BATCH]) for at in range(0, len(contents), BATCH)])

    def nearest(self, question: Vectors) -> list[str]:
        """The five best contents, exactly."""
        scores = self.vectors @ question / np.linalg.norm(self.vectors, axis=1)
        return [self.contents[at] for at in np.argsort(-scores, kind="stable")[:BEST]]


def main() -> None:
    options = report.arguments(
        __doc__,
        rows=(95_000, 20_000, "rows of tables, at most 95,000 per document"),
        documents=(1, 1, "documents that the tables belong to"),
        texts=(2_000, 1_000, "passages of ordinary text"),
        questions=(200, 100, "questions"),
        rounds=(3, 1, "rounds"),
    )
    series: dict[str, list[float]] = {}
    recalls: dict[str, float] = {}
    embedder = WordLlamaEmbedder()
    pairs = list(dict(docstrings()).items())
    random.Random(20).shuffle(pairs)
    with system(servers(options.servers), embedder.dimension, embedder.model) as some:
        corpus = Corpus(embedder, [], np.empty((0, embedder.dimension), np.float32))
        write(some, text_documents(corpus, [passage for _, passage in pairs[: options.texts]]))
        questions = corpus.embed([question for question, _ in pairs[: options.texts]])
        asked = [
            (question, passage)
            for question, (_, passage) in zip(questions, pairs, strict=False)
            if passage in corpus.nearest(question)
        ][: options.questions]
        run = partial(measure, some, corpus, series, recalls, options.rounds)
        run("texts alone", asked)
        write(some, table_documents(corpus, options.rows, options.documents))
        asked = [(question, passage) for question, passage in asked if passage in corpus.nearest(question)]
        run("with tables", asked)
        run("for a row", [(corpus.embed([text])[0], text) for text in row_questions(corpus, options.questions)])
        reindex(some, "FLAT")
        run("with tables, FLAT", asked, ("one request",))
    report.report(
        "search",
        "ms",
        series,
        keep=options.keep,
        against={name: f"{name.split(':')[0]}: one request, {name.rsplit(', ', 1)[1]}" for name in series},
        goal="every passage that FLAT finds; ordinary searches as fast as one request",
        recall=recalls,
        rows=options.rows,
        documents=options.documents,
        texts=options.texts,
        questions=len(asked),
    )


def text_documents(corpus: Corpus, passages: Sequence[str]) -> Iterator[Document]:
    for at in range(0, len(passages), PASSAGES):
        chunks = corpus.add(passages[at : at + PASSAGES])
        yield Document(doc_id=f"text-{at}", title="Docstrings", source_type="text", chunks=chunks)


def table_documents(corpus: Corpus, rows: int, documents: int) -> Iterator[Document]:
    """Tables of at most 12,500 rows, cut as the ingest cuts them."""
    numbers = random.Random(20)
    for number in range(documents):
        found: dict[str, str] = {}
        left = rows // documents
        while left > 0:
            sheet = Table((("region", "month", "sales"), *make_rows(numbers, min(left, SHEET_ROWS))), has_header=True)
            found |= {chunk.content: chunk.vector_level for chunk in chunk_table(sheet)}
            left -= SHEET_ROWS
        made = corpus.add(list(found))
        chunks = [
            Chunk(content=chunk.content, vector=chunk.vector, vector_level=found[chunk.content], modal_type="table")
            for chunk in made
        ]
        yield Document(doc_id=f"table-{number}", title="Sales", source_type="table", chunks=chunks)


def make_rows(numbers: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    for _ in range(count):
        month = f"{numbers.randrange(2015, 2025)}-{numbers.randrange(1, 13):02}"
        yield numbers.choice(REGIONS), month, f"{numbers.randrange(2_000_000):,}"


def row_questions(corpus: Corpus, count: int) -> list[str]:
    """Rows of a table, word for word."""
    rows = [text for text in corpus.contents if text.startswith("region: ")]
    return random.Random(21).sample(rows, count)


def write(some: System, documents: Iterator[Document]) -> None:
    """Write documents, and wait until Milvus has them, in segments with an index."""
    writer, written = Writer(some.environment[f"{PREFIX}EMBEDDING_MODEL"]), 0
    for document in documents:
        with some.engine.begin() as connection:
            writer.upsert(connection, document)
            written += 1
    with some.running("relay"), some.running("consume", MILVUS) as process:
        before = marked(some, process)
        wait_until(lambda: empty(some), "an empty outbox")
        wait_until(lambda: marked(some, process) >= before + written, "every document to be marked")
    with client_of(some) as client:
        client.flush(some.alias)
        wait_for_index(some, client)


def reindex(some: System, kind: str) -> None:
    """Replace the index of the vectors."""
    name = collection.name_of(some.alias, 1)
    with client_of(some) as client:
        client.release_collection(name)
        client.drop_index(name, "vector")
        index = client.prepare_index_params()
        index.add_index("vector", index_type=kind, metric_type=collection.METRIC)
        client.create_index(name, index)
        client.load_collection(name)
        wait_for_index(some, client)


def wait_for_index(some: System, client: MilvusClient) -> None:
    """Wait until no row is without an index for five seconds: Milvus merges small segments in the background."""
    name = collection.name_of(some.alias, 1)
    seen = time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen
        if int(client.describe_index(name, "vector").get("pending_index_rows") or 0):
            seen = time.monotonic()
        return time.monotonic() - seen > 5

    wait_until(is_quiet, "the index")


def client_of(some: System) -> "closing[MilvusClient]":
    return closing(MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"], dedicated=True))


def measure(
    some: System,
    corpus: Corpus,
    series: dict[str, list[float]],
    recalls: dict[str, float],
    rounds: int,
    what: str,
    asked: Sequence[tuple[Vectors, str]],
    names: Sequence[str] = ("search", "one request"),
) -> None:
    """Ask every question in each way, in turns; add the milliseconds of each round and the recall."""
    with client_of(some) as client:
        ways = make_ways(some, client)
        for name in names:
            ways[name](asked[0][0])  # warm
        for turn in range(rounds):
            for name in list(names)[:: -1 if turn % 2 else 1]:
                milliseconds, right = [], 0
                for question, wanted in asked:
                    began = time.perf_counter()
                    hits = ways[name](question)
                    milliseconds.append(1_000 * (time.perf_counter() - began))
                    right += wanted in [hit.content for hit in hits]
                for percent in (50, 95):
                    series.setdefault(f"{what}: {name}, p{percent}", []).append(
                        float(np.percentile(milliseconds, percent))
                    )
                recalls[f"{what}: {name}"] = round(right / len(asked), 3)
                sys.stderr.write(f"{what}: {name}: recall@{BEST} {right / len(asked):.3f} of {len(asked)}\n")


def find_once(
    client: MilvusClient, *, alias: str, vector: Vectors, filters: Filters, has_tables: bool, count: int
) -> tuple[list[dict[str, Any]], bool]:
    """The reference: one request for everything."""
    rows = search_module._ask(client, alias, vector, filters.expression(), count)
    return rows, len(rows) == count


def make_ways(some: System, client: MilvusClient) -> Mapping[str, Search]:
    store = DirectoryStore(Path("unused"))  # only its name is in a hit

    def ask(question: Vectors) -> list[Hit]:
        return search(some.engine, store, lambda work: work(client), question, limit=BEST, alias=some.alias)

    def ask_once(question: Vectors) -> list[Hit]:
        with patch.object(search_module, "_find", find_once):
            return ask(question)

    return {"search": ask, "one request": ask_once}


if __name__ == "__main__":
    main()
