"""Rows and checksums of the tables, computed by SQL, so that they are the same on another version of the server."""

import zlib
from collections.abc import Mapping

from sqlalchemy import Connection, inspect, text

from operations.backup.manifest import TableState
from schema.database import revision
from schema.database.tables import embedding_cache, metadata

TABLES = (*sorted(metadata.tables), revision.VERSION_TABLE)
DUMPED = tuple(name for name in TABLES if name != embedding_cache.name)  # it is large, and fills itself again


def read_states(connection: Connection) -> dict[str, TableState]:
    """All tables of a dump, as this connection's transaction sees them."""
    read = _read_mysql if connection.dialect.name == "mysql" else _read_sqlite
    return {table: read(connection, table) for table in DUMPED}


def describe_differences(expected: Mapping[str, TableState], found: Mapping[str, TableState]) -> list[str]:
    """A line per table that differs."""
    lines = []
    for table, wanted in sorted(expected.items()):
        have = found.get(table)
        if have is None:
            lines.append(f"table {table} is missing")
        elif have.rows != wanted.rows:
            lines.append(f"table {table} has {have.rows} rows instead of {wanted.rows}")
        elif have.checksum != wanted.checksum:
            lines.append(f"table {table} has other content: its checksum is {have.checksum}, not {wanted.checksum}")
    return lines


def _read_mysql(connection: Connection, table: str) -> TableState:
    # A NULL is told from an empty value. Rows are distinct, since each table has a primary key: XOR loses none.
    columns = [f"`{column['name']}`" for column in inspect(connection).get_columns(table)]
    values = ", ".join(f"ISNULL({name}), COALESCE(CAST({name} AS BINARY), '')" for name in columns)
    row = f"CRC32(CONCAT_WS('#', {values}))"
    statement = f"SELECT COUNT(*), COALESCE(BIT_XOR({row}), 0), COALESCE(SUM({row}), 0) FROM `{table}`"
    rows, exclusive, total = connection.execute(text(statement)).one()
    return TableState(rows, f"{int(exclusive):08x}-{int(total):x}")


def _read_sqlite(connection: Connection, table: str) -> TableState:
    rows = exclusive = total = 0
    for row in connection.exec_driver_sql(f'SELECT * FROM "{table}"'):
        checksum = zlib.crc32(repr(tuple(row)).encode())
        rows, exclusive, total = rows + 1, exclusive ^ checksum, total + checksum
    return TableState(rows, f"{exclusive:08x}-{total:x}")
