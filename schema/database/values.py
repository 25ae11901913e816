"""Rows of values that a statement joins, so that one statement serves any number of versions (invariant 12)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, String, Subquery, column, text

_MYSQL_TYPES: Mapping[type, Any] = {int: "BIGINT", str: "TEXT"}
_TYPES: Mapping[type, Any] = {int: Integer, str: String}


def values_table(connection: Connection, columns: Mapping[str, type], rows: Iterable[Sequence[Any]]) -> Subquery:
    """A subquery with these rows; `columns` are names with int or str. Text compares byte by byte, as in the tables."""
    packed = msgspec.json.encode(list(rows)).decode()
    if connection.dialect.name == "mysql":
        selected = ", ".join(
            f"{name} COLLATE utf8mb4_0900_bin AS {name}" if kind is str else name for name, kind in columns.items()
        )
        paths = ", ".join(
            f"{name} {_MYSQL_TYPES[kind]} PATH '$[{place}]'" for place, (name, kind) in enumerate(columns.items())
        )
        statement = f"SELECT {selected} FROM JSON_TABLE(:packed, '$[*]' COLUMNS ({paths})) AS packed"
    else:
        selected = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(columns))
        statement = f"SELECT {selected} FROM json_each(:packed)"
    typed: list[Any] = [column(name, _TYPES[kind]) for name, kind in columns.items()]
    return text(statement).bindparams(packed=packed).columns(*typed).subquery("given")
