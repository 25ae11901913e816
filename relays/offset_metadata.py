"""What a committed lane offset says beside its number: which outbox rows its transaction published.

A row is named by its id and a checksum of its event id: a database that was restored from a backup uses ids again.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence

from schema import varint

_METADATA_BYTES = 4_096 - 1  # Kafka's `offset.metadata.max.bytes`; the client sends a zero byte at the end
_PACKED_BYTES = _METADATA_BYTES // 4 * 3  # before base64
_CHECKSUM_BYTES = 4

Named = tuple[int, int]  # outbox id, checksum of the event id


def checksum(event_id: str) -> int:
    return zlib.crc32(event_id.encode())


def encode(rows: Sequence[Named]) -> str:
    """Base64 of each row's id, as the difference to the one before in a variable-length number, and its checksum.

    The rows are in the order of their ids, as many as `room` says.
    """
    packed = bytearray()
    before = 0
    for outbox_id, check in rows:
        packed += varint.encode(outbox_id - before) + check.to_bytes(_CHECKSUM_BYTES, "little")
        before = outbox_id
    return base64.b64encode(bytes(packed)).decode()


def room(rows: Sequence[Named]) -> int:
    """How many of these rows, from the first on, one offset can name: about 500 when ids are dense."""
    size = before = 0
    for count, (outbox_id, _) in enumerate(rows):
        size += len(varint.encode(outbox_id - before)) + _CHECKSUM_BYTES
        if size > _PACKED_BYTES:
            return count
        before = outbox_id
    return len(rows)


def decode(metadata: str) -> list[Named]:
    """The rows, by id. Raises ValueError on what `encode` does not write."""
    packed = base64.b64decode(metadata, validate=True)
    rows = []
    at = outbox_id = 0
    while at < len(packed):
        difference, at = varint.decode(packed, at)
        check, at = packed[at : at + _CHECKSUM_BYTES], at + _CHECKSUM_BYTES
        if at > len(packed):
            raise ValueError("the offset's metadata is cut off")
        outbox_id += difference
        rows.append((outbox_id, int.from_bytes(check, "little")))
    return rows


def matching(rows: Iterable[Named], found: Iterable[tuple[int, str]]) -> list[int]:
    """The ids among `rows` whose row in the outbox, as (id, event id), is still the one that was published."""
    published = dict(rows)
    return [outbox_id for outbox_id, event_id in found if published.get(outbox_id) == checksum(event_id)]
