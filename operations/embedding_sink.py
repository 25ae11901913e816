"""An instance of Milvus whose model may differ from that of the event: it embeds the texts itself.

So a collection of another model can be filled while writers still send vectors of the system's model, and the previous
collection stays up to date after the swap.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from consumers.sink import Change, Sink
from schema.events.events import ChunkRow, DocumentUpserted, Event
from schema.failures import ModelAway, Permanent, Retryable

if TYPE_CHECKING:
    from producer.processing.embed.port import Embedder
    from producer.supply import KnownVector

_TEXTS = 64  # between two notes of progress: a model may need a second per text


class EmbeddingSink:
    """Applies to `sink` what comes from `model`, and everything else with vectors of the embedder that `load` makes.

    `load` is called for vectors of another model. It returns None in a system whose model never changed: there the
    name in an event is not trusted, and its vectors are taken. It raises ModelAway when nothing can embed. `progress`
    is called while texts are embedded.
    """

    takes_vectors = True
    takes_files = False

    def __init__(
        self,
        sink: Sink,
        model: str,
        dimension: int,
        load: "Callable[[], Embedder | None]",
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = sink.name
        self._sink = sink
        self._model = model
        self._dimension = dimension
        self._load = load
        self._progress = progress
        self._embedder: Embedder | None = None

    def create(self) -> None:
        self._sink.create()

    def ensure(self) -> None:
        self._sink.ensure()

    def apply(self, changes: Sequence[Change]) -> None:
        foreign = [row for change in changes for event in change.events for row in self._foreign_rows(event)]
        if foreign and (embedder := self._find_embedder()) is not None:
            vectors = self._embed(foreign, embedder)
            changes = [
                replace(change, events=tuple(self._translate(event, vectors) for event in change.events))
                for change in changes
            ]
        self._sink.apply(changes)

    def close(self) -> None:
        self._sink.close()

    def _foreign_rows(self, event: Event) -> Sequence[ChunkRow]:
        """The rows of an event whose vectors are of another model."""
        if isinstance(event, DocumentUpserted) and event.embedding_model != self._model:
            return event.chunks
        return ()

    def _translate(self, event: Event, vectors: "Mapping[str, KnownVector]") -> Event:
        if not isinstance(event, DocumentUpserted) or not (rows := self._foreign_rows(event)):
            return event
        chunks = [_with_vector(row, vectors[row.chunk_id]) for row in rows]
        return msgspec.structs.replace(event, embedding_model=self._model, dimension=self._dimension, chunks=chunks)

    def _find_embedder(self) -> "Embedder | None":
        if self._embedder is None:
            self._embedder = self._load()
        return self._embedder

    def _embed(self, rows: Sequence[ChunkRow], embedder: "Embedder") -> "Mapping[str, KnownVector]":
        """By chunk id. Raises Permanent for a text that the model refuses, and ModelAway.

        Raises Retryable for a wrong vector: the model, or this text, may be at fault.
        """
        from producer.errors import InvalidDocument, NeededVector
        from producer.processing.embed.port import EmbedderUnavailable, EmbedError
        from producer.supply import Supply

        supply = Supply(is_filled_outside=True, embedder=embedder, dimension=self._dimension)
        needed = [NeededVector("", at, row.chunk_id, row.content, False) for at, row in enumerate(rows)]
        for start in range(0, len(needed), _TEXTS):
            try:
                supply.embed(needed[start : start + _TEXTS])
            except EmbedError as error:
                if error.index is None:
                    raise ModelAway(str(error)) from error
                raise Permanent(f"chunk {rows[start + error.index].chunk_id}: {error.reason}") from error
            except EmbedderUnavailable as error:
                raise ModelAway(str(error)) from error
            except InvalidDocument as error:
                raise Retryable(f"{self._model} returned a vector that breaks a limit: {error}") from error
            self._progress()
        return supply.known


def _with_vector(row: ChunkRow, made: "KnownVector") -> ChunkRow:
    return msgspec.structs.replace(row, vector=made.vector, sparse=made.sparse)
