"""An outbox row as one column: PyMySQL decodes column by column in Python, which is most of what a claim costs.

A JSON array of all but the payload, a line feed, which no JSON that MySQL writes contains, and the payload.
"""

from typing import Any

import msgspec
from sqlalchemy import LargeBinary, cast, func, type_coerce
from sqlalchemy.dialects.mysql import BINARY

from schema.events import Envelope
from schema.tables import outbox

PACKED = type_coerce(
    func.concat(
        cast(
            func.json_array(
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
    ),
    LargeBinary,
)


class OutboxRow(msgspec.Struct, frozen=True):
    id: int
    lane: int
    created_at: str  # RFC 3339, UTC
    envelope: Envelope


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The columns of `PACKED` before the payload."""

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


def unpack(row: bytes) -> OutboxRow:
    """What MySQL made of `PACKED`."""
    packed, _, payload = row.partition(b"\n")
    head = _DECODER.decode(packed)
    headers = {name: str(value) for name, value in head.headers.items()} if isinstance(head.headers, dict) else {}
    envelope = Envelope(head.event_id, head.event_type, head.doc_id, head.version, head.content_type, payload, headers)
    return OutboxRow(head.id, head.lane, head.created_at, envelope)
