"""JSON lines as rows of a temporary SQLite file: so they are read in the order of doc_id, in bounded memory."""

import codecs
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from operations.adopt.errors import MappingError
from operations.adopt.mapping import suggest
from schema.batches import bounded

TABLE = "old_rows"
_LINE_BYTES = 64 * 1024 * 1024
_ROWS_PER_INSERT = 1_000
_decoder = msgspec.json.Decoder(dict[str, Any])


def load(path: Path, columns: Mapping[str, str], database: Path, section: str) -> None:
    """Copy the keys that `columns` names (ours → theirs) into the table TABLE of a new SQLite file; ids become text.

    Raises MappingError for a line that is no flat object, and for a key that no line has.
    """
    names = list(columns)
    seen: set[str] = set()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # a temporary file
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute(f"CREATE TABLE {TABLE} ({_quote(names)})")
        insert = f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(names))})"
        for some in bounded(_rows(path, columns, seen), _ROWS_PER_INSERT):
            connection.execute("BEGIN")
            connection.executemany(insert, some)
            connection.execute("COMMIT")
        order = [name for name in ("doc_id", "order") if name in columns]
        connection.execute(f"CREATE INDEX by_document ON {TABLE} ({_quote(order)})")
    for name, theirs in columns.items():
        if theirs not in seen:
            raise MappingError(f"[{section}.columns] {name}: no line of {path} has {theirs!r}{suggest(theirs, seen)}")


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _rows(path: Path, columns: Mapping[str, str], seen: set[str]) -> Iterator[list[Any]]:
    for number, raw in _lines(path):
        try:
            line = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MappingError(f"{path}, line {number}: {error}") from error
        seen.update(line)
        row = []
        for name, theirs in columns.items():
            value = line.get(theirs)
            if isinstance(value, list | dict) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
                raise MappingError(f"{path}, line {number}: {theirs}: must be text or a number of at most 64 bits")
            row.append(str(value) if name == "doc_id" and value is not None else value)
        yield row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(_LINE_BYTES + 1), b""), 1):
                if len(raw) > _LINE_BYTES:
                    raise MappingError(f"{path}, line {number}: longer than {_LINE_BYTES} bytes")
                stripped = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if not stripped.isspace():
                    yield number, stripped
    except OSError as error:
        raise MappingError(f"cannot read {path}: {error.strerror or error}") from error
