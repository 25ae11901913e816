"""Remembers what a model answered, in the metadata database, so that no process and no machine pays for a text twice.

Each batch has its own transactions, before the writer's begins: a crash loses at most the batch that was running. The
cache is bounded in rows and in age, and may be emptied at any time.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.dialects import mysql, sqlite

from producer.processing.embed.around import EmbedderAround
from producer.processing.embed.batches import join, split
from producer.processing.embed.port import (
    Embedded,
    Embedder,
    EmbedError,
    Weights,
    check_text,
    embed_both,
)
from producer.validation import sparse_error
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.tables import embedding_cache
from schema.events import sparse
from schema.retry import Backoff, call_with_retry

MOST_ROWS = 200_000
MOST_AGE = timedelta(days=30)  # since the last use
_TOUCH_AGE = timedelta(days=1)
_REMOVED_ROWS = 1_000  # per statement
_ROWS_PER_PRUNE = 5_000
_BACKOFF = Backoff(0.05, 1.0)
_ATTEMPTS = 5

_columns = embedding_cache.c


class _Row(NamedTuple):
    vector: bytes
    sparse: bytes | None


class CachedEmbedder(EmbedderAround):
    """An embedder that asks the table `embedding_cache` first. Thread-safe if the embedder is.

    Passages are cached, questions are not. Do not call it inside a transaction of the same SQLite file: it would wait
    for that transaction's lock; `producer.run` calls it between two.
    """

    def __init__(self, embedder: Embedder, engine: Engine, *, most_rows: int = MOST_ROWS) -> None:
        super().__init__(embedder)
        self._engine = engine
        self._most_rows = most_rows
        self._lock = threading.Lock()
        self._until_prune = 0  # rows to store before the next one; the first one comes at once

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`. Raises DBAPIError too."""
        for index, text in enumerate(texts):
            check_text(text, index)
        done = []
        for start, batch in split(texts):
            try:
                done.append(self._embed_batch(batch))
            except EmbedError as error:
                raise error.moved(start) from error
        return join(done, self.dimension)

    def _embed_batch(self, texts: Sequence[str]) -> Embedded:
        keys = [self._key(text) for text in texts]
        rows = call_with_retry(lambda: self._read(keys), backoff=_BACKOFF, attempts=_ATTEMPTS)
        missing = {key: index for index, key in reversed(list(enumerate(keys))) if key not in rows}
        if missing:
            made = self._make(texts, missing)
            call_with_retry(lambda: self._store(made), backoff=_BACKOFF, attempts=_ATTEMPTS)
            self._prune_at_times(len(made))
            rows |= made
        vectors = np.array([np.frombuffer(rows[key].vector, "<f4") for key in keys], dtype=np.float32)
        if not self.gives_weights:
            return Embedded(vectors, None)
        weights: list[Weights] = [sparse.unpack(rows[key].sparse or b"") for key in keys]
        return Embedded(vectors, weights)

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self.model}\0{self.dimension}\0{text}".encode()).hexdigest()

    def _make(self, texts: Sequence[str], missing: Mapping[str, int]) -> dict[str, _Row]:
        """Embed the missing texts, each once; `missing` maps a key to the position of its text."""
        positions = sorted(missing.values())
        try:
            embedded = embed_both(self._embedder, [texts[position] for position in positions])
        except EmbedError as error:
            raise (error if error.index is None else EmbedError(error.reason, index=positions[error.index])) from error
        vectors = np.asarray(embedded.vectors, dtype="<f4")
        if vectors.shape != (len(positions), self.dimension) or not np.isfinite(vectors).all():
            raise EmbedError(f"{self.model}: {len(positions)} texts gave wrong vectors, of shape {vectors.shape}")
        for position, weights in zip(positions, embedded.weights or (), strict=False):
            if wrong := sparse_error(weights, has_vector=True):
                raise EmbedError(f"sparse weights of {self.model}: {wrong}", index=position)
        keys = {position: key for key, position in missing.items()}
        return {
            keys[position]: _Row(
                vectors[row].tobytes(), None if embedded.weights is None else sparse.pack(embedded.weights[row])
            )
            for row, position in enumerate(positions)
        }

    def _read(self, keys: Sequence[str]) -> dict[str, _Row]:
        """The rows that can be used; those that were not used for a day are marked as used."""
        wanted = select(_columns.cache_key, _columns.vector, _columns.sparse, _columns.used_at, utc_now().label("now"))
        with reading(self._engine) as connection:
            found = list(connection.execute(wanted.where(_columns.cache_key.in_(sorted(set(keys))))))
        needs_weights = self.gives_weights
        rows = {
            row.cache_key: _Row(row.vector, row.sparse)
            for row in found
            if len(row.vector) == 4 * self.dimension and not (needs_weights and row.sparse is None)
        }
        if old := sorted(row.cache_key for row in found if row.now - row.used_at > _TOUCH_AGE):
            with self._engine.begin() as connection:
                touched = update(embedding_cache).where(_columns.cache_key.in_(old))
                connection.execute(touched.values(used_at=utc_now()))
        return rows

    def _store(self, rows: Mapping[str, _Row]) -> None:
        """In the order of the keys, so that two processes do not deadlock on the same texts."""
        values: list[dict[str, Any]] = [
            {"cache_key": key, "model": self.model, "vector": row.vector, "sparse": row.sparse}
            for key, row in sorted(rows.items())
        ]
        with self._engine.begin() as connection:
            connection.execute(_upsert(connection), values)

    def _prune_at_times(self, stored: int) -> None:
        with self._lock:
            self._until_prune -= stored
            if self._until_prune > 0:
                return
            self._until_prune = min(_ROWS_PER_PRUNE, max(1, self._most_rows // 10))
        call_with_retry(lambda: prune(self._engine, self._most_rows), backoff=_BACKOFF, attempts=_ATTEMPTS)


def _upsert(connection: Connection) -> Any:
    if connection.dialect.name == "mysql":
        new: Any = mysql.insert(embedding_cache)
        return new.on_duplicate_key_update(vector=new.inserted.vector, sparse=new.inserted.sparse, used_at=utc_now())
    new = sqlite.insert(embedding_cache)
    changed = {"vector": new.excluded.vector, "sparse": new.excluded.sparse, "used_at": utc_now()}
    return new.on_conflict_do_update(index_elements=["cache_key"], set_=changed)


def prune(engine: Engine, most_rows: int, most_age: timedelta = MOST_AGE) -> int:
    """Remove rows that were not used for `most_age`, then the longest unused ones above `most_rows`; returns how many.

    Any number of processes may do it at once. Raises DBAPIError.
    """
    removed = 0
    oldest = select(_columns.cache_key, _columns.used_at, utc_now().label("now")).order_by(_columns.used_at)
    while True:
        with reading(engine) as connection:
            over = connection.execute(select(func.count()).select_from(embedding_cache)).scalar_one() - most_rows
            some = list(connection.execute(oldest.limit(_REMOVED_ROWS)))
        keys = [row.cache_key for index, row in enumerate(some) if index < over or row.now - row.used_at > most_age]
        if keys:
            with engine.begin() as connection:
                connection.execute(delete(embedding_cache).where(_columns.cache_key.in_(sorted(keys))))
            removed += len(keys)
        if len(keys) < _REMOVED_ROWS:
            return removed
