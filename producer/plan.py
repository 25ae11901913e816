"""What one version of a document changes: a pure comparison of the desired state with the stored one.

Invariant 7: the event carries everything that a sink that takes it may still lack, no matter what earlier events
carried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any

import msgspec

from producer.desired import LABELS, METADATA, POSITION, DesiredChunk, DesiredDocument, DesiredFile
from producer.stored import StoredChunk, StoredDocument, StoredRow
from schema.events.events import FileRecord

_MILVUS_METADATA = ("business_tag", "oss_key")  # a change of these reaches every row of the document
_COMPARED_COLUMNS = (*METADATA, "oss_key", "content_sha256", "chunk_count")
_CHUNK_COLUMNS = (*LABELS, *POSITION)
_chunk_columns = attrgetter(*_CHUNK_COLUMNS)


class Operation(Enum):
    """What a version does; the values of `operation_logs.operation_type`."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    SYNC = "SYNC"


class Send(Enum):
    """What the event carries of a chunk."""

    NOTHING = 0
    LABELS = 1
    VECTOR = 2


@dataclass(frozen=True, slots=True)
class RelativeChange:
    """A relative change: chunks after an insertion or deletion shift by the same amount."""

    by: int


class ChunkChange(msgspec.Struct, frozen=True, gc=False):
    """A chunk that is inserted, updated or sent. A struct: a document may have 100,000 of them."""

    chunk: DesiredChunk
    send: Send
    is_new: bool = False
    is_revived: bool = False  # a new chunk that still has a tombstone
    updates: Mapping[str, Any] = {}  # columns of a stored chunk that differ: a new value or a RelativeChange


@dataclass(frozen=True, slots=True)
class ChunkChanges:
    """What a version does to the chunks; a stored chunk that stays as it is and is not sent is in none of the fields.

    `tombstones` are chunk ids that earlier versions removed, `removed` those that this version removes.
    """

    changes: tuple[ChunkChange, ...] = ()  # in the document's order
    removed: tuple[str, ...] = ()
    tombstones: tuple[str, ...] = ()

    def to_send(self, send: Send) -> Iterator[DesiredChunk]:
        return (change.chunk for change in self.changes if change.send is send)

    def missing_vectors(self) -> list[DesiredChunk]:
        """The chunks whose vectors must be sent and are unknown."""
        return [chunk for chunk in self.to_send(Send.VECTOR) if chunk.vector is None]


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that the event carries, and whose row is written again."""

    kind: str  # a value of FILE_KINDS
    record: FileRecord


@dataclass(frozen=True, slots=True)
class FileChanges:
    """What a version does to the files.

    `tombstones` are object keys that earlier versions removed, `removed` those that this version removes. `missing` is
    the key of a stored file that must be sent and whose bytes are unknown.
    """

    sent: tuple[SentFile, ...] = ()
    removed: tuple[str, ...] = ()
    tombstones: tuple[str, ...] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one version of a document writes and sends."""

    doc_id: str
    version: int
    history_id: str
    history_base: int  # the version that the document had when this history first wrote it
    operation: Operation
    columns: Mapping[str, Any]  # of `documents`
    chunks: ChunkChanges
    files: FileChanges
    builds_on: int | None = None  # the version that carries what this one leaves out


def plan_upsert(
    desired: DesiredDocument,
    stored: StoredDocument | None,
    history_id: str,
    *,
    resend: bool = False,
) -> Plan | None:
    """The plan that brings a document to its desired state, None if it has that state already.

    With `resend` (SYNC), or when a sink is failed or absent, every label and every known vector is sent again: that
    sink may have lost what it once confirmed. When another embedding model made the stored vectors, a change of the
    chunks needs new vectors for all of them: the vectors of one document come from one model.
    """
    send_all = resend or (stored is not None and not stored.confirmation.is_sound)
    chunks = _plan_chunks(desired, stored, send_all=send_all)
    files = _plan_files(desired, stored)
    if stored is None:
        version, base, operation = 1, 0, Operation.INSERT
    elif not send_all and not _has_changes(desired, stored, chunks, files):
        return None
    else:
        version, base = _next_version(stored), _history_base(stored, history_id)
        operation = Operation.SYNC if resend else Operation.UPDATE
    return Plan(desired.doc_id, version, history_id, base, operation, desired.columns, chunks, files)


def plan_delete(stored: StoredDocument, history_id: str) -> Plan | None:
    """The plan that deletes a document: everything that a sink may hold becomes a tombstone.

    None if the document is deleted already and no sink is failed or absent.
    """
    if stored.row.deleted_at is not None and stored.confirmation.is_sound:
        return None
    chunks = ChunkChanges(removed=tuple(stored.chunks), tombstones=tuple(sorted(stored.tombstones)))
    files = FileChanges(
        removed=tuple(key for key, row in stored.files.items() if row.removed_in_version is None),
        tombstones=tuple(key for key, row in stored.files.items() if row.removed_in_version is not None),
    )
    return Plan(
        stored.row.doc_id,
        _next_version(stored),
        history_id,
        _history_base(stored, history_id),
        Operation.DELETE,
        {},
        chunks,
        files,
    )


def _next_version(stored: StoredDocument) -> int:
    """Above a suspect's lost version too, so that sinks that compare versions accept it."""
    return int(max(stored.row.version, stored.row.lost_version)) + 1


def _history_base(stored: StoredDocument, history_id: str) -> int:
    row = stored.row
    return int(row.history_base if row.history_id == history_id else row.version)


def _plan_chunks(desired: DesiredDocument, stored: StoredDocument | None, *, send_all: bool) -> ChunkChanges:
    if stored is None:
        return ChunkChanges(tuple(ChunkChange(chunk, Send.VECTOR, is_new=True) for chunk in desired.chunks))
    confirmed, other_model = stored.confirmation, has_other_model(desired.columns, stored)
    relabel_all = send_all or _differs(stored.row, desired.columns, _MILVUS_METADATA)
    changes = []
    for chunk in desired.chunks:
        old = stored.chunks.get(chunk.chunk_id)
        if old is None:
            is_revived = chunk.chunk_id in stored.tombstones
            changes.append(ChunkChange(chunk, Send.VECTOR, is_new=True, is_revived=is_revived))
            continue
        updates = _compare(old, chunk) if _chunk_columns(old) != _chunk_columns(chunk) else {}
        digest = None if chunk.is_stored_vector else chunk.digest()
        is_known = old.vector_digest is not None
        if digest is not None and digest != old.vector_digest and (send_all or other_model or is_known):
            updates = {**updates, "vector_digest": digest}
        if (
            other_model
            or old.vector_version > confirmed.vectors
            or "vector_digest" in updates
            or (send_all and chunk.vector is not None)
        ):
            changes.append(ChunkChange(chunk, Send.VECTOR, updates=updates))
        elif relabel_all or old.row_version > confirmed.labels or not updates.keys().isdisjoint(LABELS):
            changes.append(ChunkChange(chunk, Send.LABELS, updates=updates))
        elif updates:
            changes.append(ChunkChange(chunk, Send.NOTHING, updates=updates))
    kept = {chunk.chunk_id for chunk in desired.chunks}
    removed = tuple(chunk_id for chunk_id in stored.chunks if chunk_id not in kept)
    return ChunkChanges(tuple(changes), removed, tuple(sorted(stored.tombstones - kept)))


def has_other_model(columns: Mapping[str, Any], stored: StoredDocument) -> bool:
    """Whether the desired vectors come from another embedding model than the stored ones."""
    return bool(columns["embedding_model"] != stored.row.embedding_model)


def _compare(old: StoredChunk, new: DesiredChunk) -> dict[str, Any]:
    """The columns that differ: a RelativeChange between two numbers, otherwise the new value."""
    values = ((name, getattr(old, name), getattr(new, name)) for name in _CHUNK_COLUMNS)
    return {
        name: RelativeChange(after - before) if isinstance(before, int) and isinstance(after, int) else after
        for name, before, after in values
        if before != after
    }


def _plan_files(desired: DesiredDocument, stored: StoredDocument | None) -> FileChanges:
    """Given files replace the stored ones of their kind. Other stored files stay, and are sent until confirmed."""
    if stored is None:
        return FileChanges(tuple(SentFile(file.kind, _desired_record(file)) for file in desired.files))
    confirmed = stored.confirmation.files
    sent = [
        SentFile(file.kind, _desired_record(file))
        for file in desired.files
        if _is_new(file.object_key, file.file.sha256, stored) or stored.files[file.object_key].version > confirmed
    ]
    removed, tombstones, missing = [], [], None
    given = {file.object_key for file in desired.files}
    for key, row in stored.files.items():
        if key in given:
            continue
        if row.removed_in_version is not None:
            tombstones.append(key)
        elif row.kind in desired.replaced_kinds:
            removed.append(key)
        elif row.version > confirmed:
            if row.staged_key is None:
                missing = key
            else:
                sent.append(SentFile(row.kind, _stored_record(row)))
    return FileChanges(tuple(sent), tuple(removed), tuple(tombstones), missing)


def _has_changes(desired: DesiredDocument, stored: StoredDocument, chunks: ChunkChanges, files: FileChanges) -> bool:
    return (
        stored.row.deleted_at is not None
        or _differs(stored.row, desired.columns, _COMPARED_COLUMNS)
        or bool(chunks.removed or files.removed)
        or any(change.is_new or change.updates for change in chunks.changes)
        or any(_is_new(file.record.object_key, file.record.sha256, stored) for file in files.sent)
    )


def _differs(row: StoredRow, columns: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(getattr(row, name) != columns[name] for name in names)


def _is_new(object_key: str, sha256: str, stored: StoredDocument) -> bool:
    row = stored.files.get(object_key)
    return row is None or row.removed_in_version is not None or bool(row.sha256 != sha256)


def _desired_record(file: DesiredFile) -> FileRecord:
    return FileRecord(
        object_key=file.object_key,
        content_type=file.file.content_type,
        sha256=file.file.sha256,
        size_bytes=file.file.size_bytes,
        content=file.file.content,
        staged_key=file.file.staged_key,
    )


def _stored_record(row: StoredRow) -> FileRecord:
    return FileRecord(
        object_key=row.object_key,
        content_type=row.content_type,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        staged_key=row.staged_key,
    )
