"""Many outbox rows as one value: PyMySQL reads packet by packet and column by column in Python, most of a claim's cost.

Each is a JSON array of all but the payload, a line feed, which no JSON that MySQL writes contains, and the payload.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import cast, func, literal_column, select
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import BINARY

from schema.database.tables import outbox
from schema.events.events import Envelope

WHOLE = "/*+ SET_VAR(group_concat_max_len = 1073741824) */"  # GROUP_CONCAT would cut off after 1 KiB
_PACKED = func.concat(
    cast(
        func.json_array(
            outbox.c.payload_bytes,
            outbox.c.id,
            outbox.c.lane,
            func.date_format(outbox.c.created_at, "%Y-%m-%dT%H:%i:%S.%f+00:00"),
            outbox.c.event_id,
            outbox.c.event_type,
            outbox.c.aggregate_id,
            outbox.c.aggregate_version,
            outbox.c.content_type,
            outbox.c.headers,
        ),
        BINARY,
    ),
    "\n",
    outbox.c.payload,
)
_SELECT = (
    select(func.group_concat(_PACKED.op("SEPARATOR")(literal_column("''"))))
    .prefix_with(WHOLE)
    .compile(dialect=mysql.dialect(paramstyle="format"), compile_kwargs={"literal_binds": True})
)


class OutboxRow(msgspec.Struct, frozen=True, gc=False):  # thousands at a time, none in a cycle
    id: int
    lane: int
    created_at: str  # RFC 3339, UTC
    envelope: Envelope


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The columns of `_PACKED` before the payload."""

    size_bytes: int
    id: int
    lane: int
    created_at: str
    event_id: str
    event_type: str
    doc_id: str
    version: int
    content_type: str
    headers: Any  # a writer in another language may put anything there


_DECODER = msgspec.json.Decoder(_Head)


def selected(groups: Iterable[str]) -> str:
    """The statement, for PyMySQL, that reads each group of rows, told by a condition, as one value, in any order."""
    return " UNION ALL ".join(f"({_SELECT} WHERE {group})" for group in groups)


def unpack(packed: bytes) -> Iterator[OutboxRow]:
    """What `selected` reads. Raises ValueError when MySQL cut it off."""
    at = 0
    while at < len(packed):
        end = packed.index(b"\n", at)
        head = _DECODER.decode(packed[at:end])
        begin, at = end + 1, end + 1 + head.size_bytes
        if at > len(packed):
            raise ValueError(f"outbox row {head.id} is cut off: max_allowed_packet is too small for it")
        headers = {name: str(value) for name, value in head.headers.items()} if isinstance(head.headers, dict) else {}
        envelope = Envelope(
            head.event_id, head.event_type, head.doc_id, head.version, head.content_type, packed[begin:at], headers
        )
        yield OutboxRow(head.id, head.lane, head.created_at, envelope)
