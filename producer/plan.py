"""What writing a document changes: a pure comparison of what is wanted with what is stored.

Invariant 7: what not every sink is known to hold goes into the event again, whatever earlier events carried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from producer.files import DocumentFile
from producer.stored import ChunkColumns, Stored, StoredRow
from schema.events.events import ChunkLabels, ChunkRow, FileRecord
from schema.sinks import MINIO

METADATA = ("title", "source_type", "source_url", "business_tag", "domain", "language", "page_count")
_MILVUS_METADATA = ("business_tag", "oss_key")  # a change of these reaches every row of the document
LABELS = ("vector_level", "modal_type", "associate_id")
POSITION = ("chunk_index", "parent_chunk_id", "start_char", "chunk_strategy")
_CHANGEABLE = (*LABELS, *POSITION)
_changeable = attrgetter(*_CHANGEABLE)


class WantedChunk(ChunkColumns, frozen=True, gc=False):
    """A row of `chunks` as it shall be, with its whole content, vector and sparse weights where they were given."""

    content_hash: str
    content: str | None
    vector: bytes | None
    sparse: bytes = b""


@dataclass(frozen=True)
class Shift:
    """How a number changes: where a chunk came or went, all after it move by as much."""

    by: int


@dataclass(frozen=True)
class WantedFile:
    object_key: str
    kind: str
    file: DocumentFile


@dataclass
class Plan:
    """Everything that one version writes: rows to insert, update and delete, and the records of its event."""

    doc_id: str
    version: int
    metadata: Mapping[str, Any]
    new_chunks: list[WantedChunk] = field(default_factory=list)
    resent: list[str] = field(default_factory=list)  # stored chunks whose vector travels again
    relabelled: list[str] = field(default_factory=list)  # stored chunks whose labels travel
    updated: dict[str, dict[str, Any]] = field(default_factory=dict)  # chunk_id → columns that differ: value or Shift
    removed_chunks: list[str] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)  # tombstones to lift: the chunk is back
    files: list[tuple[str, FileRecord]] = field(default_factory=list)  # (kind, record)
    removed_files: list[str] = field(default_factory=list)  # newly
    missing_vectors: list[int] = field(default_factory=list)  # positions in the wanted list
    missing_file: str | None = None
    chunk_rows: list[ChunkRow] = field(default_factory=list)
    label_rows: list[ChunkLabels] = field(default_factory=list)
    event_tombstones: list[str] = field(default_factory=list)
    event_removed_files: list[str] = field(default_factory=list)
    changed: bool = True


def upsert(
    doc_id: str,
    metadata: Mapping[str, Any],
    wanted: Sequence[WantedChunk],
    files: Sequence[WantedFile],
    stored: Stored | None,
    *,
    resend: bool = False,
) -> Plan:
    """The plan of an upsert; with `resend` (SYNC) every label travels again, and every vector that `wanted` carries.

    So they do after a sink refused the newest version: it may have lost what it once confirmed.
    """
    resend = resend or (stored is not None and bool(stored.failed))
    plan = Plan(doc_id, 1 if stored is None else stored.document.version + 1, metadata)
    confirmed = 0 if stored is None else stored.confirmed_version
    before = {} if stored is None else stored.chunks
    tombstones = set() if stored is None else stored.tombstones
    relabel_all = resend or stored is None or _differs(stored.document, metadata, _MILVUS_METADATA)

    for position, chunk in enumerate(wanted):
        old = before.get(chunk.chunk_id)
        if old is None:
            plan.new_chunks.append(chunk)
            _send_vector(plan, position, chunk)
            if chunk.chunk_id in tombstones:
                plan.revived.append(chunk.chunk_id)
            continue
        labels_differ = False
        if _changeable(old) != _changeable(chunk):
            values = ((name, getattr(old, name), getattr(chunk, name)) for name in _CHANGEABLE)
            differing = {name: _change(have, want) for name, have, want in values if have != want}
            labels_differ = not differing.keys().isdisjoint(LABELS)
            plan.updated[chunk.chunk_id] = differing
        if old.vector_version > confirmed or (resend and chunk.vector is not None):
            plan.resent.append(chunk.chunk_id)
            _send_vector(plan, position, chunk)
        elif relabel_all or old.row_version > confirmed or labels_differ:
            plan.relabelled.append(chunk.chunk_id)
            plan.label_rows.append(ChunkLabels(chunk_id=chunk.chunk_id, **_labels(chunk)))

    kept = {chunk.chunk_id for chunk in wanted}
    plan.removed_chunks = [chunk_id for chunk_id in before if chunk_id not in kept]
    plan.event_tombstones = sorted(tombstones - kept) + plan.removed_chunks
    _plan_files(plan, files, stored, confirmed)
    plan.changed = (
        resend
        or stored is None
        or stored.document.deleted_at is not None
        or _differs(stored.document, metadata, (*METADATA, "oss_key", "content_sha256"))
        or bool(plan.new_chunks or plan.updated or plan.removed_chunks or plan.removed_files)
        or any(_is_new(record, stored) for _, record in plan.files)
    )
    return plan


def delete(doc_id: str, stored: Stored) -> Plan:
    """The plan of a delete: everything that a sink may hold becomes a tombstone."""
    plan = Plan(doc_id, stored.document.version + 1, {})
    plan.removed_chunks = list(stored.chunks)
    plan.event_tombstones = sorted(stored.tombstones) + plan.removed_chunks
    plan.removed_files = [key for key, row in stored.files.items() if row.removed_in_version is None]
    plan.event_removed_files = list(stored.files)
    plan.changed = stored.document.deleted_at is None or bool(stored.failed)
    return plan


def _change(old: Any, new: Any) -> Any:
    return Shift(new - old) if isinstance(old, int) and isinstance(new, int) else new


def _is_new(record: FileRecord, stored: Stored) -> bool:
    old = stored.files.get(record.object_key)
    return old is None or old.removed_in_version is not None or old.sha256 != record.sha256


def _send_vector(plan: Plan, position: int, chunk: WantedChunk) -> None:
    if chunk.vector is None or chunk.content is None:
        plan.missing_vectors.append(position)
        return
    plan.chunk_rows.append(
        ChunkRow(
            chunk_id=chunk.chunk_id,
            content_hash=chunk.content_hash,
            content=chunk.content,
            vector=chunk.vector,
            sparse=chunk.sparse,
            **_labels(chunk),
        )
    )


def _labels(chunk: WantedChunk) -> dict[str, str]:
    return {name: getattr(chunk, name) or "" for name in LABELS}


def _differs(row: StoredRow, wanted: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(getattr(row, name) != wanted[name] for name in names)


def _plan_files(plan: Plan, wanted: Sequence[WantedFile], stored: Stored | None, confirmed: int) -> None:
    """A given file replaces the stored one of its kind; one not given stays, and travels until it is confirmed."""
    before = {} if stored is None else stored.files
    if stored is not None and MINIO in stored.failed:
        confirmed = 0
    given = {file.kind: file for file in wanted}
    for file in wanted:
        old = before.get(file.object_key)
        unchanged = old is not None and old.removed_in_version is None and old.sha256 == file.file.sha256
        if old is None or not unchanged or old.version > confirmed:
            plan.files.append((file.kind, _record(file.object_key, file.file)))
    for key, row in before.items():
        replacement = given.get(row.kind)
        if row.removed_in_version is not None:
            if replacement is None or replacement.object_key != key:
                plan.event_removed_files.append(key)
        elif replacement is None:
            if row.version > confirmed:
                _send_stored_file(plan, row)
        elif replacement.object_key != key:
            plan.removed_files.append(key)
            plan.event_removed_files.append(key)


def _send_stored_file(plan: Plan, row: StoredRow) -> None:
    if row.staged_key is None:
        plan.missing_file = row.object_key
        return
    record = FileRecord(
        object_key=row.object_key,
        content_type=row.content_type,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        staged_key=row.staged_key,
    )
    plan.files.append((row.kind, record))


def _record(object_key: str, file: DocumentFile) -> FileRecord:
    return FileRecord(
        object_key=object_key,
        content_type=file.content_type,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        content=file.content,
        staged_key=file.staged_key,
    )
