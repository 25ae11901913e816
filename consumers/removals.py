"""Removals of a version in parts: they wait until every part is there, and the last one takes those of all parts.

Invariant 10: nothing of the older version is deleted while a part of the newer one may still be missing or refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from consumers.sink import Change
from schema.database.statements import select_for_ids
from schema.events.events import DocumentDeleted


def hold_back(change: Change) -> Change:
    """The change without its removals."""
    events = (msgspec.structs.replace(event, tombstones=[], removed_files=[]) for event in change.events)
    return replace(change, events=tuple(events))


def is_empty(change: Change) -> bool:
    """Whether nothing is left to apply: it is a deletion, and its last part is still to come."""
    last = change.events[-1]
    return isinstance(last, DocumentDeleted) and last.part < last.parts


def needs_earlier_parts(change: Change) -> bool:
    """Whether parts that earlier batches applied, and whose removals were held back, come before this change."""
    return not change.replace and change.events[0].part > 1


def _add_removals(change: Change, field: str, removed: Sequence[str]) -> Change:
    """The change with more chunk ids ("tombstones") or object keys ("removed_files") to remove."""
    last = change.events[-1]
    known = set(getattr(last, field))
    more = [*getattr(last, field), *(one for one in removed if one not in known)]
    return replace(change, events=(*change.events[:-1], msgspec.structs.replace(last, **{field: more})))


def _load_removals(
    connection: Connection, key: Any, removed_in_version: Any, versions: Mapping[str, int]
) -> dict[str, list[str]]:
    """What the given version of each document removes, and what older versions removed and is not confirmed yet."""
    found: dict[str, list[str]] = {doc_id: [] for doc_id in versions}
    doc_id = key.table.c.doc_id
    removed = select(doc_id, key, removed_in_version).where(removed_in_version.is_not(None))
    for row in select_for_ids(connection, removed, doc_id, versions):
        if row[2] <= versions[row[0]]:
            found[row[0]].append(row[1])
    return found


def complete_changes(
    connection: Connection, changes: Sequence[Change], field: str, key: Any, removed_in_version: Any
) -> list[Change]:
    """These last parts, with everything in `field` that their version removes, read from the columns given."""
    removed = _load_removals(connection, key, removed_in_version, {one.doc_id: one.version for one in changes})
    return [_add_removals(change, field, removed[change.doc_id]) for change in changes]
