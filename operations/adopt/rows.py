"""Rows of the old platform: a table, a query or JSON lines, read by pages in the order of doc_id and never changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    column,
    create_engine,
    event,
    func,
    literal_column,
    make_url,
    select,
    table,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError

from operations.adopt import json_rows
from operations.adopt.errors import MappingError, SourceError
from operations.adopt.mapping import Chunks, Documents, suggest
from schema.retry import Backoff, call_with_retry

T = TypeVar("T")
Row = Mapping[str, Any]  # by our names
_BACKOFF = Backoff(0.2, 5.0)
_ATTEMPTS = 6
_CONNECT_SECONDS = 10
_READ_SECONDS = 600  # of a statement without an answer: counting a large table takes long


@contextmanager
def open_rows(section: str, wanted: Documents | Chunks, engine: Engine | None, folder: Path) -> Iterator["OldRows"]:
    """The rows of [documents] or [chunks]; `engine` is the old database. Raises MappingError.

    Every column that the mapping names is there.
    """
    columns = {name: theirs for name, theirs in msgspec.structs.asdict(wanted.columns).items() if theirs is not None}
    if wanted.jsonl is None:
        assert engine is not None
        relation = _relation(engine, section, wanted, columns)
        yield OldRows(engine, relation, columns)
        return
    with TemporaryDirectory(prefix="rag-outbox-adopt-") as temporary:
        database = Path(temporary) / "rows.db"
        json_rows.load(folder / wanted.jsonl, columns, database, section)
        lines = create_engine(f"sqlite:///{database}")
        try:
            names = {name: name for name in columns}
            yield OldRows(lines, table(json_rows.TABLE, *map(column, names)), names)
        finally:
            lines.dispose()


@contextmanager
def open_database(url: str | URL, described: str) -> Iterator[Engine]:
    """An engine that only reads the old database. `described` says where the URL comes from, for errors."""
    options: dict[str, Any] = {"hide_parameters": True, "isolation_level": "AUTOCOMMIT"}
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise MappingError(f"{described}: there is no SQLite file {parsed.database!r}")
        if parsed.get_driver_name() == "pymysql":
            waits = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
            options |= {"pool_pre_ping": True, "connect_args": {"charset": "utf8mb4", **waits}}
        engine = create_engine(parsed, **options)
    except (ArgumentError, ImportError, ValueError):  # ValueError: the port is not a number
        raise MappingError(f"{described}: not a usable SQLAlchemy URL") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    try:
        yield engine
    finally:
        engine.dispose()


def id_text(value: Any) -> str:
    """A doc_id as text. Raises MappingError for a type that has no obvious text."""
    if isinstance(value, str | int | Decimal | UUID):
        return str(value)
    raise MappingError(f"doc_id must be text or a number, is {type(value).__name__}: convert it in a query")


class OldRows:
    """Rows with a doc_id. `columns` maps our names to theirs."""

    def __init__(self, engine: Engine, relation: FromClause, columns: Mapping[str, str]) -> None:
        self._engine = engine
        self._relation = relation
        self._columns: dict[str, ColumnElement[Any]] = {name: column(theirs) for name, theirs in columns.items()}
        self._doc_id = self._columns["doc_id"]

    def count(self) -> int:
        """The number of rows. Raises MappingError unless each has a doc_id of its own."""
        counts = (func.count(), func.count(self._doc_id), func.count(self._doc_id.distinct()))
        [(rows, ids, distinct)] = self._read(select(*counts).select_from(self._relation))
        if ids < rows:
            raise MappingError(f"[documents.columns] doc_id: {rows - ids} of {rows} rows have none")
        if distinct < ids:
            twice = select(self._doc_id).select_from(self._relation).group_by(self._doc_id).having(func.count() > 1)
            [(example,)] = self._read(twice.limit(1))
            raise MappingError(
                f"[documents.columns] doc_id: must be unique as the database compares it; {example!r} is not"
            )
        return int(rows)

    def page(self, after: Any, limit: int) -> list[Row]:
        """The next rows after a doc_id, in the order of doc_id; `after` is None for the first ones."""
        statement = self._select().order_by(self._doc_id).limit(limit)
        if after is not None:
            statement = statement.where(self._doc_id > after)
        return self._rows(statement)

    def sizes(self, doc_ids: Sequence[Any]) -> dict[str, tuple[int, int]]:
        """doc_id → the number of its rows and the length of their content, 0 without a content column."""
        content = self._columns.get("content", literal_column("''"))
        counted = select(self._doc_id, func.count(), func.sum(func.coalesce(func.length(content), 0)))
        statement = counted.select_from(self._relation).where(self._is_of(doc_ids)).group_by(self._doc_id)
        return {id_text(doc_id): (int(count), int(length)) for doc_id, count, length in self._read(statement)}

    def of(self, doc_ids: Sequence[Any]) -> list[Row]:
        """All rows of these documents, in the order of doc_id and `order`."""
        order = (self._columns[name] for name in ("doc_id", "order", "vector_id"))
        return self._rows(self._select().where(self._is_of(doc_ids)).order_by(*order))

    def _select(self) -> Any:
        # MySQL looks for a name in ORDER BY among the labels first: no label may be the name of a column.
        labelled = (theirs.label(f"rag_outbox_{name}") for name, theirs in self._columns.items())
        return select(*labelled).select_from(self._relation)

    @cached_property
    def _ids_are_text(self) -> bool:
        """MySQL compares a text column with numbers by scanning it."""
        given = select(self._doc_id).select_from(self._relation).where(self._doc_id.is_not(None))
        return any(isinstance(doc_id, str) for (doc_id,) in self._read(given.limit(1)))

    def _is_of(self, doc_ids: Sequence[Any]) -> ColumnElement[bool]:
        return self._doc_id.in_([str(doc_id) for doc_id in doc_ids] if self._ids_are_text else doc_ids)

    def _rows(self, statement: Any) -> list[Row]:
        return [dict(zip(self._columns, row, strict=True)) for row in self._read(statement)]

    def _read(self, statement: Any) -> Sequence[Any]:
        return _with_retry(self._engine, lambda connection: connection.execute(statement).all())


def _relation(engine: Engine, section: str, wanted: Documents | Chunks, columns: Mapping[str, str]) -> FromClause:
    """The table or the query as something to select from, after a look at its columns."""
    key = "table" if wanted.table is not None else "query"
    everything: Any
    if wanted.table is not None:
        schema, _, name = wanted.table.rpartition(".")
        everything = select(text("*")).select_from(table(name, schema=schema or None)).limit(0)
    else:
        query = _plain(wanted.query or "")
        everything = text(f"SELECT * FROM ({query}) AS old_rows LIMIT 0")
    try:
        found = _with_retry(engine, lambda connection: list(connection.execute(everything).keys()))
    except SourceError as error:
        raise MappingError(f"[{section}] {key}: {error}") from error
    for ours, theirs in columns.items():
        if theirs not in found:
            raise MappingError(f"[{section}.columns] {ours}: there is no column {theirs!r}{suggest(theirs, found)}")
    if wanted.table is not None:
        return table(name, *(column(theirs) for theirs in set(columns.values())), schema=schema or None)
    return text(query).columns(*(column(theirs) for theirs in set(columns.values()))).subquery("old_rows")


def _plain(query: str) -> str:
    """A query without parameters: a colon in it is a colon."""
    return query.strip().rstrip(";").replace(":", "\\:")


def _with_retry(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Return the result of `work`; repeat it after a transient error. Raises SourceError."""

    def attempt() -> T:
        with engine.connect() as connection:
            return work(connection)

    try:
        return call_with_retry(attempt, backoff=_BACKOFF, attempts=_ATTEMPTS)
    except DBAPIError as error:
        raise SourceError(f"old database: {error.orig}") from error
