"""The metadata of a committed lane offset: it names the outbox rows that the transaction published.

A row is named by its id and a checksum of its event id, because a database restored from a backup uses ids again.
"""

import base64
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from relays.ports import Named, OutboxRow
from schema import varint

_METADATA_BYTES = 4_096 - 1  # Kafka's `offset.metadata.max.bytes`; the client appends a zero byte
_PACKED_BYTES = _METADATA_BYTES // 4 * 3  # before base64
_CHECKSUM_BYTES = 4


def checksum(event_id: str) -> int:
    return zlib.crc32(event_id.encode())


def encode(rows: Sequence[Named]) -> str:
    """Base64 of, per row, its id as a varint difference to the previous id, and its checksum.

    The rows are in id order, at most as many as `room` returns.
    """
    packed = bytearray()
    previous = 0
    for outbox_id, check in rows:
        packed += varint.encode(outbox_id - previous) + check.to_bytes(_CHECKSUM_BYTES, "little")
        previous = outbox_id
    return base64.b64encode(bytes(packed)).decode()


def encode_by_lane(rows: Iterable[OutboxRow]) -> dict[int, str]:
    """The metadata of each lane's offset."""
    return {lane: encode(named) for lane, named in _name_by_lane(rows).items()}


def limit_rows(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """The first rows of each lane, as many as its offset can name."""
    last = {lane: named[room(named) - 1][0] for lane, named in _name_by_lane(rows).items()}
    return [row for row in rows if row.id <= last[row.lane]]


def room(rows: Sequence[Named]) -> int:
    """How many of the first rows one offset can name: about 500 when ids are dense."""
    size = previous = 0
    for count, (outbox_id, _) in enumerate(rows):
        size += len(varint.encode(outbox_id - previous)) + _CHECKSUM_BYTES
        if size > _PACKED_BYTES:
            return count
        previous = outbox_id
    return len(rows)


def decode(metadata: str) -> list[Named]:
    """Return the rows in id order. Raises ValueError for text that `encode` cannot have written."""
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


def match(published: Iterable[Named], found: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those of the rows found, given as (id, event id), that are the rows that were published."""
    checksums = dict(published)
    return [(outbox_id, event_id) for outbox_id, event_id in found if checksums.get(outbox_id) == checksum(event_id)]


def _name_by_lane(rows: Iterable[OutboxRow]) -> dict[int, list[Named]]:
    lanes: dict[int, list[Named]] = defaultdict(list)
    for row in rows:
        lanes[row.lane].append((row.id, checksum(row.envelope.event_id)))
    return lanes
