"""An outbox row as one column: PyMySQL decodes column by column in Python, which is most of what a claim costs.

Numbers and lengths come first, then the texts and the payload, which may hold any byte.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import CHAR, LargeBinary, cast, func, type_coerce
from sqlalchemy.dialects.mysql import BINARY

from schema.events import Envelope
from schema.tables import outbox

_TEXTS = (outbox.c.event_id, outbox.c.aggregate_id, outbox.c.event_type, outbox.c.content_type)
_HEADERS = func.coalesce(cast(outbox.c.headers, CHAR), "")

PACKED = type_coerce(
    func.concat(
        func.concat_ws(
            " ",
            outbox.c.id,
            outbox.c.lane,
            outbox.c.aggregate_version,
            *(func.length(text) for text in _TEXTS),
            func.length(_HEADERS),
            func.date_format(outbox.c.created_at, "%Y-%m-%dT%H:%i:%S.%f+00:00"),
        ),
        "\n",
        *(cast(text, BINARY) for text in (*_TEXTS, _HEADERS)),
        outbox.c.payload,
    ),
    LargeBinary,
)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    id: int
    lane: int
    created_at: str  # RFC 3339, UTC
    envelope: Envelope


def unpack(row: bytes) -> OutboxRow:
    """What MySQL made of `PACKED`."""
    numbers, _, rest = row.partition(b"\n")
    *counts, created_at = numbers.split()
    outbox_id, lane, version, *lengths = map(int, counts)
    at = 0
    texts = []
    for length in lengths:
        texts.append(rest[at : at + length].decode())
        at += length
    event_id, doc_id, event_type, content_type, headers = texts
    envelope = Envelope(event_id, event_type, doc_id, version, content_type, rest[at:], _headers(headers))
    return OutboxRow(outbox_id, lane, created_at.decode(), envelope)


def _headers(text: str) -> dict[str, str]:
    """A writer in another language may put anything there."""
    found: Any = msgspec.json.decode(text) if text else None
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
