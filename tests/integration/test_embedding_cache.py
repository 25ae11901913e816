"""The embedding cache on real databases: nobody pays twice, a crash loses one batch, and the table stays bounded."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, text, update

from producer.processing.embed import cache
from producer.processing.embed.cache import CachedEmbedder
from producer.processing.embed.openai_compatible import OpenAiEmbedder
from producer.processing.embed.port import Embedded, EmbedError, Vectors, embed_query
from schema.database.tables import embedding_cache
from tests.integration.test_marks_use_indexes import NUMBERS, plan, recorded
from tests.support import embedding_server
from tests.support.embedding_server import DIMENSION, EmbeddingServer, vector

pytestmark = [pytest.mark.integration, pytest.mark.both_databases]

CHILD = """
import os, sys
from producer.processing.embed.cache import CachedEmbedder
from producer.processing.embed.openai_compatible import OpenAiEmbedder
from schema.database.connection import connect
url, texts = sys.argv[1:]
embedder = CachedEmbedder(OpenAiEmbedder(url, "m", 8), connect(os.environ["DATABASE"]))
embedder.embed([f"t{number}" for number in range(int(texts))])
"""


class Counting:
    """Embeds as the server of `embedding_server` does, and remembers the texts that it was given."""

    def __init__(self, model: str = "m", dimension: int = DIMENSION) -> None:
        self.model = model
        self.dimension = dimension
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        for index, one in enumerate(texts):
            if one == "bad":
                raise EmbedError("is bad", index=index)
        self.texts += texts
        return np.array([vector(one, self.dimension) for one in texts], dtype=np.float32)


class CountingSparse(Counting):
    gives_weights = True

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        return Embedded(self.embed(texts), [{len(one): 0.5} for one in texts])


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server.serve() as server:
        yield server


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(embedding_cache)).scalar_one()


def make_older(engine: Engine, days: int, *embedded: str) -> None:
    """Make the rows of these texts look unused for `days` days."""
    keys = [CachedEmbedder(Counting(), engine)._key(one) for one in embedded]
    if engine.dialect.name == "mysql":
        then = text(f"used_at - INTERVAL {days} DAY")
    else:
        then = text(f"strftime('%Y-%m-%d %H:%M:%f000', used_at, '-{days} days')")
    with engine.begin() as connection:
        statement = update(embedding_cache).where(embedding_cache.c.cache_key.in_(keys)).values(used_at=then)
        assert connection.execute(statement).rowcount == len(keys)


def test_text_is_embedded_once_by_all_processes(engine: Engine) -> None:
    inner = Counting()
    texts = ["a", "b", "a", *(f"t{number}" for number in range(100))]
    first = CachedEmbedder(inner, engine).embed(texts)
    assert inner.texts == ["a", "b", *texts[3:]]
    np.testing.assert_array_equal(first, [vector(one) for one in texts])
    other = Counting()
    np.testing.assert_array_equal(CachedEmbedder(other, engine).embed(["new", *texts]), [vector("new"), *first])
    assert other.texts == ["new"]


def test_models_and_dimensions_have_their_own_rows(engine: Engine) -> None:
    for inner in (Counting(), Counting("other"), Counting(dimension=4)):
        assert CachedEmbedder(inner, engine).embed(["a"]).shape == (1, inner.dimension)
        assert inner.texts == ["a"]
    assert count(engine) == 3


def test_questions_are_not_cached(engine: Engine) -> None:
    inner = Counting()
    embed_query(CachedEmbedder(inner, engine), "what")
    embed_query(CachedEmbedder(inner, engine), "what")
    assert (inner.texts, count(engine)) == (["what", "what"], 0)


def test_weights_are_cached_with_the_vector(engine: Engine) -> None:
    dense, inner = Counting(), CountingSparse()
    assert CachedEmbedder(dense, engine).embed_both(["a"]).weights is None
    cached = CachedEmbedder(inner, engine)
    assert cached.embed_both(["a", "bb"]).weights == [{1: 0.5}, {2: 0.5}]
    assert inner.texts == ["a", "bb"]  # the row of an embedder without weights is not enough
    assert cached.embed_both(["bb", "a"]).weights == [{2: 0.5}, {1: 0.5}]
    assert inner.texts == ["a", "bb"]


def test_text_at_fault_keeps_its_position(engine: Engine) -> None:
    cached = CachedEmbedder(Counting(), engine)
    cached.embed(["a", "b"])
    with pytest.raises(EmbedError, match="text 70: is bad"):
        cached.embed(["a", *(f"t{number}" for number in range(68)), "b", "bad"])
    with pytest.raises(EmbedError, match="text 1: is blank"):
        cached.embed(["a", " "])


def test_damaged_row_is_made_again(engine: Engine) -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, engine)
    cached.embed(["a"])
    with engine.begin() as connection:
        connection.execute(update(embedding_cache).values(vector=b"1234"))
    for _ in range(2):
        np.testing.assert_array_equal(cached.embed(["a"]), [vector("a")])
    assert inner.texts == ["a", "a"]


def test_invariant_12_cache_keeps_the_rows_used_last(engine: Engine) -> None:
    cached = CachedEmbedder(Counting(), engine, most_rows=20)
    cached.embed([f"t{number}" for number in range(20)])
    make_older(engine, 5, "t3", "t4", "t5")
    cached.embed(["t4"])  # is used again
    cached.embed(["new1", "new2"])
    assert count(engine) == 20
    inner = Counting()
    CachedEmbedder(inner, engine).embed(["t3", "t4", "t5", "t6", "new1", "new2"])
    assert inner.texts == ["t3", "t5"]


def test_rows_that_nobody_uses_are_removed(engine: Engine) -> None:
    CachedEmbedder(Counting(), engine).embed(["a", "b", "c"])
    make_older(engine, 31, "a", "b")
    CachedEmbedder(Counting(), engine).embed(["a"])  # is used in time
    assert cache.prune(engine, 100) == 1
    assert count(engine) == 2
    assert cache.prune(engine, 100) == 0


def test_many_workers_embed_the_same_texts_at_once(engine: Engine) -> None:
    start = threading.Barrier(4)

    def work(worker: int) -> None:
        cached = CachedEmbedder(Counting(), engine, most_rows=150)
        start.wait(60)
        for offset in range(0, 160, 40):
            texts = [f"t{(number * (worker + 1) + offset) % 211}" for number in range(80)]
            np.testing.assert_array_equal(cached.embed(texts), [vector(one) for one in texts])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    cache.prune(engine, 150)
    assert count(engine) <= 150


def test_killed_process_loses_one_batch(engine: Engine, server: EmbeddingServer) -> None:
    """kill -9 in the third batch, at the second of its requests: the next process pays for that batch again."""
    pids: list[int] = []
    started = threading.Event()

    def kill(handler: embedding_server.Handler, _texts: list[str]) -> None:
        assert started.wait(60)
        os.kill(pids[0], signal.SIGKILL)
        handler.close_connection = True

    server.replies = [*[embedding_server.right()] * 5, kill]
    environment = os.environ | {"DATABASE": engine.url.render_as_string(hide_password=False)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, "320"], env=environment)
    pids.append(child.pid)
    started.set()
    assert child.wait(60) == -signal.SIGKILL
    assert count(engine) == 128
    texts = [f"t{number}" for number in range(320)]
    paid = len(server.texts)
    vectors = CachedEmbedder(OpenAiEmbedder(server.url, "m", DIMENSION), engine).embed(texts)
    np.testing.assert_allclose(vectors, [vector(one) for one in texts], atol=1e-6)
    assert server.texts[paid:] == texts[128:]


def test_statements_use_keys(mysql: Engine) -> None:
    with mysql.begin() as connection:
        connection.exec_driver_sql("SET SESSION cte_max_recursion_depth = 100000")
        connection.exec_driver_sql(
            f"INSERT INTO embedding_cache (cache_key, model, vector, used_at) {NUMBERS} "
            "SELECT SHA2(n, 256), 'm', 'v', UTC_TIMESTAMP(6) - INTERVAL 2 * n SECOND FROM numbers WHERE n <= 20000"
        )
        connection.exec_driver_sql("ANALYZE TABLE embedding_cache")
    with recorded(mysql) as sent:
        cached = CachedEmbedder(Counting(), mysql, most_rows=20_000)
        cached.embed([f"t{number}" for number in range(64)])
        make_older(mysql, 2, "t1", "t2")
        cached.embed(["t1", "t2", "t3"])
    for statement, parameters in sent:
        for row in plan(mysql, statement, parameters):
            is_covered = "Using index" in str(row["Extra"])  # the count, and the longest unused rows
            assert row["key"], (statement, row)
            assert row["type"] != "index" or is_covered, (statement, row)
            assert "filesort" not in str(row["Extra"]), (statement, row)
    assert {statement.split()[0] for statement, _ in sent} >= {"SELECT", "INSERT", "UPDATE", "DELETE"}
