"""wordllama behind the port: normalised, repeatable vectors; no network, no side effects, bounded memory."""

import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from producer.errors import ProducerError
from producer.processing.embed.port import Embedder, EmbedError
from producer.processing.embed.wordllama import WordLlamaEmbedder

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return WordLlamaEmbedder()


def run_python(code: str) -> str:
    """Run `code` in a new process, where wordllama is not imported yet, and return its output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_name_and_dimension(embedder: Embedder) -> None:
    assert (embedder.model, embedder.dimension) == ("wordllama-l2_supercat-256", 256)


def test_each_text_has_one_normalised_vector(embedder: Embedder) -> None:
    vectors = embedder.embed(["a", "two words", "\u4e2d\u6587", "\U0001f600", "\u0301", "x" * 5000])
    assert vectors.shape == (6, 256)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    vectors = embedder.embed([])
    assert vectors.shape == (0, 256)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("How do I install the package?", "Run pip install to set it up.", "The cat sleeps on the warm sofa."),
        ("database transactions", "A commit makes all rows of the SQL table durable.", "Bake the bread for an hour."),
        ("weather forecast", "Tomorrow brings rain and strong wind.", "The compiler reports a syntax error."),
        ("doctor", "The nurse in the hospital treats the patient.", "The train leaves from platform nine."),
    ],
)
def test_similar_texts_score_higher_than_others(embedder: Embedder, query: str, near: str, far: str) -> None:
    vectors = embedder.embed([query, near, far])
    near_score, far_score = vectors[1:] @ vectors[0]
    assert near_score > far_score + 0.1


def test_vector_does_not_depend_on_other_texts_or_calls(embedder: Embedder) -> None:
    texts = ["short", "a longer text " * 500, "x", "words " * 30_000, "last"]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, WordLlamaEmbedder().embed(texts))


def test_vectors_equal_those_of_wordllama(embedder: Embedder) -> None:
    printed = run_python(
        "from pathlib import Path; import logging, wordllama\n"
        "model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)\n"
        "print(model.embed(['The relay publishes.', 'x'], norm=True).tolist())"
    )
    expected = np.array([[float(number) for number in row.split(",")] for row in printed.strip("[]").split("], [")])
    np.testing.assert_allclose(embedder.embed(["The relay publishes.", "x"]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "text 2: is blank, so it has no vector"),
        (" \n\t", "text 2: is blank, so it has no vector"),
        ("ab\ud800", "text 2: lone surrogate at character 2"),
    ],
)
def test_text_without_vector_is_named(embedder: Embedder, text: str, reason: str) -> None:
    with pytest.raises(EmbedError) as caught:
        embedder.embed(["good", "good", text, "good"])
    assert (str(caught.value), caught.value.index) == (reason, 2)
    assert isinstance(caught.value, ProducerError)


def test_memory_does_not_grow_with_text_length(embedder: Embedder) -> None:
    texts = ["word " * 100_000, *["short"] * 100]  # 6 GB if padded to the longest, as wordllama does
    embedder.embed(["loaded"])
    tracemalloc.start()
    vectors = embedder.embed(texts)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 32 * 1024 * 1024
    assert vectors[0] @ embedder.embed(["word " * 100])[0] > 0.99


def test_embedder_is_thread_safe() -> None:
    shared = WordLlamaEmbedder()
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(shared.embed, [["the same text"]] * 8)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_importing_wordllama_keeps_root_logger_unchanged() -> None:
    printed = run_python(
        "import logging; from producer.processing.embed.wordllama import WordLlamaEmbedder\n"
        "WordLlamaEmbedder().embed(['text'])\n"
        "import wordllama; root = logging.getLogger(); print(root.handlers, root.level == logging.WARNING)"
    )
    assert printed == "[] True"


def test_first_embed_imports_wordllama() -> None:
    printed = run_python(
        "import sys; from producer.processing.embed.wordllama import WordLlamaEmbedder\n"
        "embedder = WordLlamaEmbedder(); print('wordllama' in sys.modules)"
    )
    assert printed == "False"


def test_embedder_uses_no_network_and_creates_no_folder() -> None:
    printed = run_python(
        "import sys; from producer.processing.embed.wordllama import WordLlamaEmbedder\n"
        "used = ('socket.connect', 'socket.sendto', 'socket.getaddrinfo', 'socket.gethostbyname', 'os.mkdir')\n"
        "sys.addaudithook(lambda event, args: event in used and print(event, args))\n"
        "print(WordLlamaEmbedder().embed(['text']).shape)"
    )
    assert printed == "(1, 256)"


def test_missing_wordllama_is_named_in_error() -> None:
    printed = run_python(
        "import sys; from producer.processing.embed import port, wordllama\n"
        "sys.modules['wordllama'] = None\n"
        "try: wordllama.WordLlamaEmbedder().embed(['text'])\n"
        "except port.EmbedError as error: print(error)"
    )
    assert printed.startswith("cannot load wordllama-l2_supercat-256: import of wordllama halted")
