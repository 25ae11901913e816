"""A sink of your own: full-text search in one SQLite file, kept in step with every document."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from consumers.sink import Change
from consumers.sinks import SinkSettings
from schema.events.events import DocumentUpserted
from schema.failures import Retryable, StoreMissing
from schema.object_store.port import ObjectStore


class FullTextSink:
    name = "fulltext"
    takes_vectors = True  # the chunks; their vectors are left out
    takes_files = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        with sqlite3.connect(self._path) as database:
            database.execute(
                "CREATE VIRTUAL TABLE IF NOT EXISTS chunks USING fts5(chunk_id UNINDEXED, doc_id UNINDEXED, content)"
            )

    def ensure(self) -> None:
        if not self._path.exists():
            raise StoreMissing(f"{self._path} is missing: run rag-outbox init")

    def apply(self, changes: Sequence[Change]) -> None:
        self.ensure()
        try:
            with sqlite3.connect(self._path) as database:  # one transaction: readers see all of it or nothing
                for change in changes:
                    self._apply(database, change)
        except sqlite3.OperationalError as error:
            raise Retryable(f"full text: {error}") from error

    def close(self) -> None:
        """Nothing is open."""

    def search(self, words: str) -> list[str]:
        """Document ids, the best match first."""
        with sqlite3.connect(self._path) as database:
            found = database.execute("SELECT doc_id FROM chunks WHERE chunks MATCH ? ORDER BY rank", [words])
            return list(dict.fromkeys(doc_id for (doc_id,) in found))

    def _apply(self, database: sqlite3.Connection, change: Change) -> None:
        upserts = [event for event in change.events if isinstance(event, DocumentUpserted)]
        rows = {chunk.chunk_id: chunk.content for event in upserts for chunk in event.chunks}
        kept = rows.keys() | {chunk.chunk_id for event in upserts for chunk in event.relabelled}
        gone = {chunk_id for event in change.events for chunk_id in event.tombstones}
        if change.replace:
            found = database.execute("SELECT chunk_id FROM chunks WHERE doc_id = ?", [change.doc_id])
            gone |= {chunk_id for (chunk_id,) in found}
        ids = [[chunk_id] for chunk_id in rows.keys() | (gone - kept)]
        database.executemany("DELETE FROM chunks WHERE chunk_id = ?", ids)
        values = [(chunk_id, change.doc_id, content) for chunk_id, content in rows.items()]
        database.executemany("INSERT INTO chunks VALUES (?, ?, ?)", values)


def make(settings: SinkSettings, _store: ObjectStore) -> FullTextSink:
    """The entry point `fulltext` of the group `rag_outbox.sinks` names this function."""
    return FullTextSink(settings.data_dir / "fulltext.db")
