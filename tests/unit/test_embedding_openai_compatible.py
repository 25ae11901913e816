"""Embeddings over HTTP, from a real server on this machine that answers late, wrongly, or not at all."""

import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from producer.processing.embed.openai_compatible import OpenAiEmbedder
from producer.processing.embed.port import Embedder, EmbedderUnavailable, EmbedError, embed_query
from producer.processing.embed.prefixes import PrefixedEmbedder
from schema.retry import is_transient
from tests.support import embedding_server
from tests.support.embedding_server import DIMENSION, EmbeddingServer, Reply, right, vector

pytestmark = pytest.mark.unit

KEY = "sk-hush-123"


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server.serve() as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def embedder(server: EmbeddingServer, pauses: list[float]) -> OpenAiEmbedder:
    return make(server, pauses)


def make(server: EmbeddingServer, pauses: list[float], **options: Any) -> OpenAiEmbedder:
    given: dict[str, Any] = {"key": KEY, "pause": pauses.append} | options
    return OpenAiEmbedder(server.url, "m", DIMENSION, **given)


def test_request_names_model_and_key(server: EmbeddingServer, pauses: list[float]) -> None:
    assert isinstance(make(server, pauses), Embedder)
    make(server, pauses, server_model="org/m").embed(["a", "b"])
    make(server, pauses, key=None).embed(["c"])
    assert server.requests == [
        {"path": "/v1/embeddings", "model": "org/m", "input": ["a", "b"], "encoding_format": "float"},
        {"path": "/v1/embeddings", "model": "m", "input": ["c"], "encoding_format": "float"},
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize("reply", [right(), right(encoding="base64"), right(turned=True), right(scale=7.5)])
def test_vectors_are_normalised_in_the_order_of_the_texts(
    reply: Reply, server: EmbeddingServer, embedder: OpenAiEmbedder
) -> None:
    server.replies = [reply]
    texts = ["one", "two", "三"]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, DIMENSION)
    np.testing.assert_allclose(vectors, [vector(text) for text in texts], atol=1e-6)


def test_batches_are_bounded_in_texts_and_characters(server: EmbeddingServer, embedder: OpenAiEmbedder) -> None:
    texts = [f"t{number}" for number in range(70)] + ["x" * 40_000, "y" * 40_000, "z" * 200_000, "end"]
    vectors = embedder.embed(texts)
    np.testing.assert_allclose(vectors, [vector(text) for text in texts], atol=1e-6)
    assert [len(request["input"]) for request in server.requests] == [32, 32, 7, 1, 1, 1]
    assert embedder.embed([]).shape == (0, DIMENSION)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "reply",
    [
        embedding_server.error(429, "slow down"),
        embedding_server.status(503, b"<html>busy</html>"),
        embedding_server.status(200, b'{"data": [{"index"'),
        embedding_server.half,
    ],
    ids=["429", "503", "broken JSON", "half an answer"],
)
def test_busy_or_broken_server_is_asked_again(
    reply: Reply, server: EmbeddingServer, embedder: OpenAiEmbedder, pauses: list[float]
) -> None:
    server.replies = [reply]
    np.testing.assert_allclose(embedder.embed(["a"]), [vector("a")], atol=1e-6)
    assert len(server.requests) == 2
    assert len(pauses) == 1
    assert 0 <= pauses[0] <= 1


@pytest.mark.parametrize("reply", [embedding_server.silent, embedding_server.endless])
def test_silent_and_endless_answers_are_given_up(reply: Reply, server: EmbeddingServer, pauses: list[float]) -> None:
    server.replies = [reply]
    np.testing.assert_allclose(make(server, pauses, read_seconds=0.5).embed(["a"]), [vector("a")], atol=1e-6)
    assert len(server.requests) >= 2


def test_retry_after_is_waited_for_within_a_limit(
    server: EmbeddingServer, embedder: OpenAiEmbedder, pauses: list[float]
) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    values = ("7", "86400", soon, "soon")
    server.replies = [embedding_server.error(429, "later", Retry_After=value) for value in values]
    embedder.embed(["a"])
    assert pauses[:2] == [7, 60]
    assert 20 < pauses[2] <= 30
    assert pauses[3] <= 8


def test_server_that_stays_away_is_a_temporary_failure(
    server: EmbeddingServer, embedder: OpenAiEmbedder, pauses: list[float]
) -> None:
    server.replies = [embedding_server.error(500, "out of memory")] * 5
    with pytest.raises(EmbedderUnavailable, match=r"HTTP status 500: out of memory \(5 attempts\)") as caught:
        embedder.embed(["a"])
    assert is_transient(caught.value)
    assert (len(server.requests), len(pauses)) == (5, 4)
    nowhere = OpenAiEmbedder("http://127.0.0.1:1/v1", "m", DIMENSION, pause=pauses.append)
    with pytest.raises(EmbedderUnavailable, match="Connection refused"):
        nowhere.embed(["a"])


def test_endless_answer_is_bounded(server: EmbeddingServer, embedder: OpenAiEmbedder) -> None:
    server.replies = [embedding_server.status(200, b" " * 3_000_000)]
    with pytest.raises(EmbedError, match="more than 1048832 bytes"):
        embedder.embed(["a"])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (embedding_server.error(401, "bad key"), "refuses the key, HTTP status 401: bad key"),
        (embedding_server.error(404, "no model m"), "its model 'm' does not exist, HTTP status 404: no model m"),
        (embedding_server.status(302, b"", Location="http://127.0.0.1:1/"), "HTTP status 302"),
        (embedding_server.status(501, b'{"detail": "no"}'), "HTTP status 501: no"),
        (right(dimension=9), "model 'm' has 9 dimensions, not 8"),
        (embedding_server.embeddings([1.0] * 8), "returned 1 embeddings for 2 texts"),
        (embedding_server.status(200, b'{"data": []}'), "returned 0 embeddings for 2 texts"),
        (embedding_server.embeddings("?!", "?!"), "no base64 of float32"),
        (embedding_server.embeddings("AAAA", "AAAA"), "no base64 of float32"),
        (embedding_server.embeddings([1.0] * 8, [0.0] * 8), "text 1: the server returned a vector that is zero"),
        (embedding_server.embeddings([1.0] * 8, "AADAfwAAwH8AAMB/AADAfwAAwH8AAMB/AADAfwAAwH8="), "or not finite"),
    ],
)
def test_wrong_answer_is_named_and_not_asked_for_again(
    reply: Reply, reason: str, server: EmbeddingServer, embedder: OpenAiEmbedder
) -> None:
    server.replies = [reply]
    with pytest.raises(EmbedError) as caught:
        embedder.embed(["a", "b"])
    assert reason in str(caught.value)
    assert len(server.requests) == 1


def test_text_at_fault_is_found_by_halving(server: EmbeddingServer, embedder: OpenAiEmbedder) -> None:
    server.replies = [embedding_server.refuse_if(lambda text: text == "t77")] * 100
    with pytest.raises(EmbedError, match="text 77: the server refuses it, HTTP status 400: too long") as caught:
        embedder.embed([f"t{number}" for number in range(90)])
    assert caught.value.index == 77
    assert len(server.requests) < 15


def test_server_that_refuses_every_text_is_at_fault_itself(server: EmbeddingServer, embedder: OpenAiEmbedder) -> None:
    server.replies = [embedding_server.error(400, "no such model")] * 100
    with pytest.raises(EmbedError, match="HTTP status 400: no such model") as caught:
        embedder.embed(["a", "b", "c"])
    assert caught.value.index is None


@pytest.mark.parametrize(("text", "reason"), [(" ", "is blank"), ("\udc80", "lone surrogate")])
def test_text_without_vector_is_not_sent(
    text: str, reason: str, server: EmbeddingServer, embedder: OpenAiEmbedder
) -> None:
    with pytest.raises(EmbedError, match=f"text 1: {reason}"):
        embedder.embed(["good", text])
    assert not server.requests


@pytest.mark.parametrize("code", [401, 400, 404, 429, 418])
def test_key_that_the_server_repeats_is_in_no_error(
    code: int, server: EmbeddingServer, embedder: OpenAiEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies = [embedding_server.error(code, f"bad: Bearer {KEY}!")] * 10
    with caplog.at_level("DEBUG"), pytest.raises((EmbedError, EmbedderUnavailable)) as caught:
        embedder.embed(["a"])
    assert "bad: Bearer …!" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in caplog.text


def test_key_that_fits_no_header_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="key must be printable ASCII") as caught:
        OpenAiEmbedder("http://host/v1", "m", 8, key="hush\n")
    assert "hush" not in str(caught.value)


def test_prefixes_stand_before_passages_and_questions(server: EmbeddingServer, embedder: OpenAiEmbedder) -> None:
    e5 = PrefixedEmbedder(embedder, query="query: ", passage="passage: ")
    assert (e5.model, e5.dimension, e5.gives_weights) == ("m", DIMENSION, False)
    np.testing.assert_allclose(e5.embed(["a"])[0], vector("passage: a"), atol=1e-6)
    np.testing.assert_allclose(embed_query(e5, "a"), vector("query: a"), atol=1e-6)
    with pytest.raises(EmbedError, match="text 0: is blank"):
        e5.embed([" "])
