"""Finds vectors and files that a sink may lack: in the archive, in the object store, or in the dead letters."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
from sqlalchemy import select

from consumers.minio.translate import translate_errors
from operations.dead_letters.letters import Letter
from operations.dead_letters.payload import PayloadGone, read_payload
from operations.wiring import System
from producer import Chunk, DocumentFile
from schema import archive, limits
from schema.database.connection import reading
from schema.database.history import document_model
from schema.database.tables import chunks, document_files, documents
from schema.events import sparse
from schema.events.events import ChunkRow, DocumentUpserted, MalformedEvent, decode
from schema.object_store.port import ObjectMissing


class Sources:
    """What is known of one document beyond the database; `letters` are dead letters of it.

    Every method raises Retryable or StoreMissing when the object store does not answer.
    """

    def __init__(self, system: System, letters: Sequence[Letter]) -> None:
        self._system = system
        self._letters = letters
        self._doc_id = letters[0].doc_id
        self.unread: list[str] = []  # dead letters that could not be read, and why

    def find_chunks(self, positions: Sequence[int]) -> list[Chunk]:
        """The chunks at these positions, and all others with the same contents; empty unless all have a vector."""
        wanted = self._read_wanted(positions)
        copies = Counter(one.content_hash for one in wanted.values())
        found = {row.content_hash: row for row in self._read_archive(wanted)}
        if copies.keys() - found.keys():
            of_letters = (row for row in self._of_letters if row.chunk_id in wanted)
            found = {row.content_hash: row for row in of_letters if wanted[row.chunk_id].is_met_by(row)} | found
        if copies.keys() - found.keys():
            return []
        return [_chunk_of(found[digest]) for digest, count in copies.items() for _ in range(count)]

    def find_file(self, object_key: str) -> DocumentFile | None:
        with reading(self._system.engine) as connection:
            columns = document_files.c
            row = connection.execute(select(document_files).where(columns.object_key == object_key)).one_or_none()
        if row is None:
            return None
        content = next(self._read_contents(object_key, row.sha256), None)
        if content is None:
            return None
        extension = object_key.rpartition(".")[2]
        return DocumentFile(extension, row.content_type, row.sha256, row.size_bytes, content)

    def _read_contents(self, object_key: str, sha256: str) -> Iterator[bytes]:
        for event in self._events:
            yield from (
                file.content
                for file in event.files
                if (file.object_key, file.sha256) == (object_key, sha256) and file.content is not None
            )
        with translate_errors(), suppress(ObjectMissing):
            if self._system.store.sha256(object_key) == sha256:
                yield self._system.store.read(object_key)

    def _read_wanted(self, positions: Sequence[int]) -> dict[str, archive.Wanted]:
        """What the rows of these chunks must have, by chunk id."""
        names = ("chunk_id", "chunk_index", "content_hash", "vector_version", "vector_digest")
        of_document = select(*(chunks.c[name] for name in names)).where(chunks.c.doc_id == self._doc_id)
        with reading(self._system.engine) as connection:
            rows = connection.execute(of_document).all()
        lacking = set(positions)
        hashes = {row.content_hash for row in rows if row.chunk_index in lacking}
        return {
            row.chunk_id: archive.Wanted(row.content_hash, row.vector_version, row.vector_digest)
            for row in rows
            if row.content_hash in hashes
        }

    def _read_archive(self, wanted: Mapping[str, archive.Wanted]) -> Iterator[ChunkRow]:
        if not self._has_current_model:
            return
        with translate_errors():
            yield from filter(self._is_usable, archive.read_vectors(self._system.store, self._doc_id, wanted))

    @cached_property
    def _of_letters(self) -> list[ChunkRow]:
        events = [event for event in self._events if event.embedding_model == self._system.settings.embedding_model]
        return [row for event in events for row in event.chunks if self._is_usable(row)]

    @cached_property
    def _has_current_model(self) -> bool:
        """Whether the vectors in the archive come from the model of the writer, which is that of the settings.

        Not from that of the identity, which this process may have read before a rebuild changed it.
        """
        model = select(document_model()).where(documents.c.doc_id == self._doc_id)
        with reading(self._system.engine) as connection:
            return connection.execute(model).scalar_one_or_none() == self._system.settings.embedding_model

    @cached_property
    def _events(self) -> list[DocumentUpserted]:
        """Those of the letters that can be read, the oldest first."""
        found = []
        for letter in sorted(self._letters, key=lambda one: one.id):
            try:
                event = decode(letter.envelope(read_payload(self._system, letter)))
            except (PayloadGone, MalformedEvent) as error:
                self.unread.append(f"dead letter {letter.id}: {error}")
                continue
            if isinstance(event, DocumentUpserted):
                found.append(event)
        return found

    def _is_usable(self, row: ChunkRow) -> bool:
        if (
            len(row.vector) != 4 * self._system.settings.vector_dimension
            or len(row.content.encode()) > limits.CONTENT_BYTES
        ):
            return False
        return bool(np.isfinite(np.frombuffer(row.vector, "<f4")).all())


def _chunk_of(row: ChunkRow) -> Chunk:
    weights = sparse.unpack(row.sparse) if row.sparse else None
    return Chunk(content=row.content, vector=np.frombuffer(row.vector, "<f4"), sparse=weights)
