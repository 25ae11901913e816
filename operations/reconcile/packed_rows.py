"""A row of the collection as one text, the same from both stores: the drivers need microseconds for each value.

A text has the values of FIELDS without doc_version. That of the database goes on with the numbers of the chunk, or is
only the chunk id if its document is not settled in Milvus.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, func, literal_column, select

# The writer refuses control characters. If another writer uses one of them, the row is looked at again.
VALUE_END: Final = "\x1f"
TEXT_END: Final = "\x1d"
_ROW_END: Final = "\x1e"
_WHOLE = "/*+ SET_VAR(group_concat_max_len = 1073741824) */"  # GROUP_CONCAT would cut off after 1 KiB


def read_packed(connection: Connection, statement: Select[Any]) -> tuple[Sequence[str], str]:
    """The texts of a statement that selects `chunk_id` and `packed`, in any order, and the last chunk id.

    MySQL sends them as one value.
    """
    if connection.dialect.name == "mysql":
        rows = statement.subquery()
        texts = func.group_concat(rows.c.packed.op("SEPARATOR")(literal_column(f"0x{ord(_ROW_END):02x}")))
        whole = select(func.count(), func.max(rows.c.chunk_id), texts).prefix_with(_WHOLE)
        number, last, joined = connection.execute(whole).one()
        packed = joined.split(_ROW_END) if joined else []
        if len(packed) == number:  # otherwise a value contains the separator
            return packed, last or ""
    found = connection.execute(statement).all()
    return [row.packed for row in found], found[-1].chunk_id if found else ""


def pack(rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """The texts of rows of Milvus, without doc_version."""
    return map(VALUE_END.join, rows)


def key_of(packed: str) -> str:
    """The chunk id of a text."""
    return packed.partition(VALUE_END)[0]


def document_of(packed: str) -> str:
    return packed.split(VALUE_END, 2)[1]


def agreeing_versions(numbers: str) -> range:
    """The values of doc_version that agree with a chunk whose text ends with `numbers`; none if it is not marked."""
    row_version, version, is_marked = numbers.split(VALUE_END)
    return range(int(row_version), int(version) + 1) if is_marked == "1" else range(0)
