"""The event of a plan, encoded; a large one is split into numbered parts of at most 512 KiB.

Invariant 10: chunks and files come in the first parts, tombstones in the last.
Invariant 12: one part at a time is in memory.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec

from producer.desired import LABELS, DesiredChunk
from producer.plan import Operation, Plan, Send
from schema import limits
from schema.batches import bounded
from schema.events.events import ChunkLabels, ChunkRow, DocumentDeleted, DocumentUpserted, encode

_ITEMS_PER_PART = 1_000_000  # the bytes bound a part long before
_ENVELOPE_BYTES = 256  # field names and part numbers


_Item = tuple[str, msgspec.Raw]  # the name of its list; encoded already, so that its bytes are counted


def encode_event(plan: Plan, content_type: str, *, embedding_model: str, dimension: int) -> Iterator[bytes]:
    """The payloads of the event's parts, in order; every chunk that is sent must have its vector.

    An event of several parts is encoded twice: a part names the number of parts, which only the end tells.
    """
    struct: type[DocumentUpserted] | type[DocumentDeleted]
    if plan.operation is Operation.DELETE:
        struct, fields = DocumentDeleted, _identity(plan)
    else:
        struct, fields = DocumentUpserted, _identity(plan) | _metadata(plan, embedding_model, dimension)
        if plan.builds_on is not None:
            fields["builds_on"] = plan.builds_on
    room = limits.EVENT_BYTES - _ENVELOPE_BYTES - len(encode(fields, content_type))
    group: list[_Item] = []
    lengths = []  # items per part
    for group in bounded(
        _encode_items(plan, content_type), _ITEMS_PER_PART, room, lambda item: len(bytes(item[1])) + 1
    ):
        lengths.append(len(group))
    if len(lengths) < 2:
        yield encode(struct(**fields, **_lists(group)), content_type)
        return
    items = _encode_items(plan, content_type)
    for part, length in enumerate(lengths, start=1):
        event = struct(**fields, part=part, parts=len(lengths), **_lists(islice(items, length)))
        yield encode(event, content_type)


def _encode_items(plan: Plan, content_type: str) -> Iterator[_Item]:
    return ((name, msgspec.Raw(encode(item, content_type))) for name, item in _items(plan))


def _lists(items: Iterable[_Item]) -> dict[str, Any]:
    lists: dict[str, list[msgspec.Raw]] = {}
    for name, raw in items:
        lists.setdefault(name, []).append(raw)
    return lists


def _identity(plan: Plan) -> dict[str, Any]:
    return {"doc_id": plan.doc_id, "version": plan.version, "history_id": plan.history_id}


def _metadata(plan: Plan, embedding_model: str, dimension: int) -> dict[str, Any]:
    required = {name: plan.columns[name] for name in ("title", "source_type", "chunk_count")}
    optional = {
        name: plan.columns[name] or "" for name in ("business_tag", "source_url", "domain", "language", "oss_key")
    }
    return {"embedding_model": embedding_model, "dimension": dimension, **required, **optional}


def _items(plan: Plan) -> Iterator[tuple[str, Any]]:
    """The items of the event's lists, each with the name of its list, in the order in which they are sent."""
    for file in plan.files.sent:
        yield "files", file.record
    for chunk in plan.chunks.to_send(Send.VECTOR):
        yield "chunks", _chunk_row(chunk)
    for chunk in plan.chunks.to_send(Send.LABELS):
        yield "relabelled", ChunkLabels(chunk_id=chunk.chunk_id, **_labels(chunk))
    for chunk_id in (*plan.chunks.tombstones, *plan.chunks.removed):
        yield "tombstones", chunk_id
    for object_key in (*plan.files.tombstones, *plan.files.removed):
        yield "removed_files", object_key


def _chunk_row(chunk: DesiredChunk) -> ChunkRow:
    assert chunk.content is not None
    assert chunk.vector is not None
    return ChunkRow(
        chunk_id=chunk.chunk_id,
        content_hash=chunk.content_hash,
        content=chunk.content,
        vector=chunk.vector,
        sparse=chunk.sparse,
        **_labels(chunk),
    )


def _labels(chunk: DesiredChunk) -> dict[str, str]:
    return {name: getattr(chunk, name) or "" for name in LABELS}
