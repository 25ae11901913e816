"""The event of a plan, encoded; a large one is split into numbered parts of at most 512 KiB.

Invariant 10: chunks and files come in the first parts, tombstones in the last.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from producer.desired import LABELS, DesiredChunk
from producer.plan import Operation, Plan, Send
from schema import limits
from schema.batches import bounded
from schema.events.events import ChunkLabels, ChunkRow, DocumentDeleted, DocumentUpserted, encode

_ITEMS_PER_PART = 1_000_000  # the bytes bound a part long before
_ENVELOPE_BYTES = 256  # field names and part numbers


def encode_event(plan: Plan, content_type: str, *, embedding_model: str, dimension: int) -> list[bytes]:
    """The payloads of the event's parts, in order; every chunk that is sent must have its vector."""
    struct: type[DocumentUpserted] | type[DocumentDeleted]
    if plan.operation is Operation.DELETE:
        struct, fields = DocumentDeleted, _identity(plan)
    else:
        struct, fields = DocumentUpserted, _identity(plan) | _metadata(plan, embedding_model, dimension)
    room = limits.EVENT_BYTES - _ENVELOPE_BYTES - len(encode(fields, content_type))
    items = ((name, msgspec.Raw(encode(item, content_type))) for name, item in _items(plan))
    groups = list(bounded(items, _ITEMS_PER_PART, room, lambda item: len(bytes(item[1])) + 1)) or [[]]
    payloads = []
    for part, group in enumerate(groups, start=1):
        lists: dict[str, list[msgspec.Raw]] = {}  # encoded already, so that their bytes could be counted
        for name, raw in group:
            lists.setdefault(name, []).append(raw)
        event = struct(**fields, part=part, parts=len(groups), **lists)  # type: ignore[arg-type]  # raw items
        payloads.append(encode(event, content_type))
    return payloads


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
