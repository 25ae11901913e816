"""Reads the results of a write: rows of every table, files, waiting events, and the statements that were sent.

It shares no code with the writer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, event, text

from schema.database.connection import reading
from schema.database.revision import VERSION_TABLE


def tables(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in order."""
    with reading(engine) as connection:
        names = connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")).all()
        return {
            name: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY rowid"))]
            for name in names
        }


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def rows(engine: Engine, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Committed rows, as any other connection sees them; read without a lock."""
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(text(statement), parameters)]


def chunks(engine: Engine, doc_id: str) -> list[str]:
    """The contents of a document's chunks, in order."""
    statement = "SELECT content FROM chunks WHERE doc_id = :doc_id ORDER BY chunk_index"
    return [content for (content,) in rows(engine, statement, doc_id=doc_id)]


def chunk_ids(engine: Engine, doc_id: str) -> dict[str, str]:
    """Chunk ids by content, of a document without repeated contents."""
    return dict(rows(engine, "SELECT content, chunk_id FROM chunks WHERE doc_id = :doc_id", doc_id=doc_id))


def payloads(engine: Engine, doc_id: str, version: int) -> list[bytes]:
    """The encoded parts of a version's event, in the order of the outbox."""
    statement = "SELECT payload FROM outbox WHERE aggregate_id = :doc_id AND aggregate_version = :version ORDER BY id"
    return [payload for (payload,) in rows(engine, statement, doc_id=doc_id, version=version)]


def events(engine: Engine, doc_id: str, version: int) -> list[dict[str, Any]]:
    """The parts of a version's event as plain dicts, with the default values that the encoder leaves out."""
    lists: dict[str, Any] = {"chunks": [], "relabelled": [], "files": [], "tombstones": [], "removed_files": []}
    numbers = {"part": 1, "parts": 1}
    return [lists | numbers | msgspec.msgpack.decode(payload) for payload in payloads(engine, doc_id, version)]


def is_look_at_outbox(statement: str) -> bool:
    return "max(outbox.id)" in statement or "sum(anon_1.payload_bytes)" in statement


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that are sent during the block; a multi-row statement counts once.

    A writer's look at the outbox, once per second, is left out, and its look at the revision, once per engine.
    """
    sent: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not (is_look_at_outbox(statement) or VERSION_TABLE in statement):
            sent.append(statement)

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", record)
