"""A plan's event, encoded; one too large for a single event is split into numbered parts of at most 512 KiB.

Invariant 10: chunks and files come in the first parts, tombstones in the last.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from producer.plan import Plan
from schema import limits
from schema.batches import bounded
from schema.events import events

_ITEMS_A_PART = 1_000_000  # bytes bound a part long before
_ENVELOPE_BYTES = 256  # field names and part numbers


def upserted(plan: Plan, embedding_model: str, dimension: int, content_type: str) -> list[bytes]:
    metadata = {
        name: plan.metadata[name] or "" for name in ("business_tag", "source_url", "domain", "language", "oss_key")
    }
    return _parts(
        {
            "doc_id": plan.doc_id,
            "version": plan.version,
            "embedding_model": embedding_model,
            "dimension": dimension,
            "title": plan.metadata["title"],
            "source_type": plan.metadata["source_type"],
            "chunk_count": plan.metadata["chunk_count"],
            **metadata,
        },
        _items(plan, content_type),
        content_type,
        events.DocumentUpserted,
    )


def deleted(plan: Plan, content_type: str) -> list[bytes]:
    common = {"doc_id": plan.doc_id, "version": plan.version}
    return _parts(common, _items(plan, content_type), content_type, events.DocumentDeleted)


def _items(plan: Plan, content_type: str) -> Iterator[tuple[str, msgspec.Raw]]:
    groups: tuple[tuple[str, list[Any]], ...] = (
        ("files", [record for _, record in plan.files]),
        ("chunks", plan.chunk_rows),
        ("relabelled", plan.label_rows),
        ("tombstones", plan.event_tombstones),
        ("removed_files", plan.event_removed_files),
    )
    for name, values in groups:
        for value in values:
            yield name, msgspec.Raw(events.encode(value, content_type))  # encoded once: measured, then copied


def _parts(
    common: dict[str, Any],
    items: Iterator[tuple[str, msgspec.Raw]],
    content_type: str,
    struct: type[events.DocumentUpserted] | type[events.DocumentDeleted],
) -> list[bytes]:
    room = limits.EVENT_BYTES - _ENVELOPE_BYTES - len(events.encode(common, content_type))
    groups = list(bounded(items, _ITEMS_A_PART, room, lambda item: len(bytes(item[1])) + 1)) or [[]]
    payloads = []
    for part, group in enumerate(groups, start=1):
        fields: dict[str, list[msgspec.Raw]] = {}
        for name, raw in group:
            fields.setdefault(name, []).append(raw)
        event = struct(**common, part=part, parts=len(groups), **fields)  # type: ignore[arg-type]  # raw records
        payloads.append(events.encode(event, content_type))
    return payloads
