"""A change of a document's metadata alone: without its chunks, vectors and files.

Invariant 7: what a sink may still lack is in the event of the version that the plan builds on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from producer.desired import from_stored
from producer.plan import ChunkChanges, FileChanges, Plan, Send, plan_upsert
from producer.stored import StoredDocument
from producer.supply import Supply


def plan_relabel(values: Mapping[str, Any], stored: StoredDocument, history_id: str, supply: Supply) -> Plan | None:
    """The plan that sets these columns of a document, None if it has them already.

    A vector or file that a sink may lack stays missing in the plan, if no version is known that carried all of them.
    """
    state = supply.fill(from_stored(stored, {}, {}), stored)
    plan = plan_upsert(replace(state, columns={**state.columns, **values}), stored, history_id)
    return None if plan is None else build_on_last(plan, stored)


def build_on_last(plan: Plan, stored: StoredDocument) -> Plan:
    """The plan; if it lacks a vector or a file, it builds on the version that carried all of them, if one is known.

    It must bring no vector and no file of its own.
    """
    if not (plan.chunks.missing_vectors() or plan.files.missing):
        return plan
    base = _last_whole_version(plan, stored)
    return plan if base is None else _build_on(plan, base)


def _last_whole_version(plan: Plan, stored: StoredDocument) -> int | None:
    """The version whose event carried all that a sink may lack; every later one was a relabel that builds on it.

    None if it is of another history than the plan: consumers do not apply it.
    """
    row, confirmation = stored.row, stored.confirmation
    if not confirmation.is_sound:
        return None
    versions = {stored.chunks[chunk.chunk_id].vector_version for chunk in plan.chunks.to_send(Send.VECTOR)}
    versions |= {
        file.version
        for file in stored.files.values()
        if file.removed_in_version is None and file.version > confirmation.files
    }
    if row.history_id != plan.history_id or len(versions) != 1 or max(versions) <= row.history_base:
        return None
    return max(versions)


def _build_on(plan: Plan, base: int) -> Plan:
    """The same plan without vectors and files: it carries the labels of every chunk whose vector the base carries."""
    changes = (
        msgspec.structs.replace(change, send=Send.LABELS) if change.send is Send.VECTOR else change
        for change in plan.chunks.changes
    )
    return replace(
        plan,
        builds_on=base,
        chunks=ChunkChanges(tuple(changes), tombstones=plan.chunks.tombstones),
        files=FileChanges(tombstones=plan.files.tombstones),
    )
