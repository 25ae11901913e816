"""Vectors for chunks that come without: those that `run` got outside the transaction, or an embedder makes inside it.

`run` puts its supply on the connection, as an execution option: the writer finds it there, and raises VectorRequired
for what it lacks. Without `run`, an embedder works while the transaction holds its locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from producer.desired import DesiredChunk, DesiredDocument
from producer.documents import Vector
from producer.errors import InvalidDocument, NeededVector, Problem, WrongModel
from producer.processing.embed import batches
from producer.processing.embed.port import Embedded, Embedder, EmbedError, embed_both
from producer.stored import StoredChunk, StoredDocument
from producer.validation import sparse_error, vector_bytes
from schema.database.history import Identity
from schema.events import sparse

OPTION = "rag_outbox_supply"  # an execution option of a connection
_BATCH_TEXTS = 512
_BATCH_CHARS = 1024 * 1024


@dataclass(slots=True)
class KnownVector:
    """What a chunk lacks: its vector, and, for one that is only stored, its whole content.

    `read_for` is what was stored of the chunk when an archived vector was read for it, None for a new vector.
    """

    vector: bytes
    sparse: bytes = b""
    content_hash: str = ""
    content: str | None = None
    read_for: "StoredVector | None" = None

    def is_of(self, stored: StoredChunk | None) -> bool:
        """Whether the stored chunk still has the vector; another transaction may have embedded it again."""
        if self.read_for is None:
            return True
        return stored is not None and self.read_for == (stored.vector_version, stored.vector_digest)


class StoredVector(NamedTuple):
    """Which vector a stored chunk has."""

    version: int
    digest: int | None


@dataclass(slots=True)
class Supply:
    """Known vectors by chunk id. `embedder` is that of the last call, `dimension` the system's."""

    is_filled_outside: bool
    known: dict[str, KnownVector] = field(default_factory=dict)
    embedder: Embedder | None = None
    dimension: int = 0

    @classmethod
    def of(cls, connection: Connection) -> "Supply":
        """That of `run`, or an empty one."""
        found = connection.get_execution_options().get(OPTION)
        return found if isinstance(found, cls) else cls(is_filled_outside=False)

    def use(self, embedder: Embedder | None, identity: Identity) -> None:
        """Note the embedder of this call; raises WrongModel unless it is that of the system."""
        self.embedder, self.dimension = embedder, identity.dimension
        if embedder is None:
            return
        if not isinstance(embedder, Embedder):
            raise TypeError(f"embedder must have `model`, `dimension` and `embed`, is {type(embedder).__name__}")
        if (embedder.model, embedder.dimension) != (identity.embedding_model, identity.dimension):
            raise WrongModel(
                f"the system's embedding model is {identity.embedding_model!r} with {identity.dimension} dimensions, "
                f"the embedder's is {embedder.model!r} with {embedder.dimension}"
            )

    def fill(self, state: DesiredDocument, stored: StoredDocument | None) -> DesiredDocument:
        """The state with the vectors that are known, without an archived one that is not the stored one any more."""
        if not self.known:
            return state
        old = {} if stored is None else stored.chunks
        return replace(state, chunks=tuple(self._fill(chunk, old.get(chunk.chunk_id)) for chunk in state.chunks))

    def embed(self, needed: Sequence[NeededVector]) -> None:
        """Embed these chunks. Raises EmbedError, InvalidDocument for a vector that breaks a limit."""
        assert self.embedder is not None
        texts = [one.content or "" for one in needed]
        for start, batch in batches.split(texts, most_texts=_BATCH_TEXTS, most_chars=_BATCH_CHARS):
            try:
                embedded = embed_both(self.embedder, batch)
            except EmbedError as error:
                raise error.moved(start) from error
            self._keep(needed[start : start + len(batch)], embedded)

    def _keep(self, needed: Sequence[NeededVector], embedded: Embedded) -> None:
        """Weights are packed at once: as a dict, those of one chunk take as much memory as ten vectors."""
        vectors: Sequence[Vector] = embedded.vectors  # type: ignore[assignment]
        weights = embedded.weights
        if len(vectors) != len(needed) or (weights is not None and len(weights) != len(needed)):
            given = len(vectors) if weights is None else min(len(vectors), len(weights))
            raise EmbedError(f"the embedder returned {given} vectors for {len(needed)} texts")
        for index, (one, vector) in enumerate(zip(needed, vectors, strict=True)):
            values, wrong = vector_bytes(vector, self.dimension)
            if values is None:
                raise _refuse(one, "vector", wrong)
            packed = b""
            if weights is not None:
                if (wrong := sparse_error(weights[index], has_vector=True)) is not None:
                    raise _refuse(one, "sparse", wrong)
                packed = sparse.pack(weights[index])
            self.known[one.chunk_id] = KnownVector(values, packed)

    def _fill(self, chunk: DesiredChunk, stored: StoredChunk | None) -> DesiredChunk:
        known = self.known.get(chunk.chunk_id)
        if known is None or chunk.vector is not None or not known.is_of(stored):
            return chunk
        if chunk.content is None and known.content is None:
            return chunk
        filled = msgspec.structs.replace(
            chunk, vector=known.vector, sparse=known.sparse, is_stored_vector=known.read_for is not None
        )
        if chunk.content is not None:
            return filled
        return msgspec.structs.replace(filled, content_hash=known.content_hash, content=known.content)


def _refuse(one: NeededVector, field_name: str, wrong: str | None) -> InvalidDocument:
    return InvalidDocument(
        one.doc_id, [Problem(f"chunks[{one.position}].{field_name}", f"{wrong} (from the embedder)")]
    )
