"""The events that go from the outbox to the sinks: CloudEvents with a JSON or MessagePack payload.

Invariant 7: an upsert carries every vector, row, file and tombstone that some sink has not confirmed yet, so it depends
on no earlier event but the one that it names in `builds_on`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

UPSERTED: Final = "rag.document.upserted.v1"
DELETED: Final = "rag.document.deleted.v1"
MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"


class MalformedEvent(Exception):
    """Raised when an event's payload cannot be decoded; the message says where."""


class ChunkRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row for Milvus. `vector`: little-endian float32, 4 bytes per dimension (base64 in JSON).

    `sparse`, if there are sparse weights: 8 bytes per entry, the token id as little-endian uint32 and its weight as
    little-endian float32, sorted by id (base64 in JSON).
    """

    chunk_id: str
    content_hash: str
    content: str
    vector: bytes
    sparse: bytes = b""
    vector_level: str = "text"
    modal_type: str = "text"
    associate_id: str = ""


class ChunkLabels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New labels of a chunk whose vector every sink already holds."""

    chunk_id: str
    vector_level: str = "text"
    modal_type: str = "text"
    associate_id: str = ""


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object of the document: its bytes in `content`, or their staging key in `staged_key`."""

    object_key: str
    content_type: str
    sha256: str
    size_bytes: int
    content: bytes | None = None
    staged_key: str | None = None


class DocumentUpserted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sink may lack of a document at `version`, in `parts` parts; the last part completes the version.

    A sink writes `chunks` and `relabelled` before it removes `tombstones`; tombstones come in the last parts. An event
    with `builds_on` carries all changes of labels since that version of the same history, whose event is applied first
    and builds on no other; it carries no vector and no file.
    """

    doc_id: str
    version: int
    history_id: str
    embedding_model: str
    dimension: int
    title: str
    source_type: str
    chunk_count: int | None  # None: not chunked yet
    part: int = 1
    parts: int = 1
    source_url: str = ""
    business_tag: str = ""
    domain: str = ""
    language: str = ""
    oss_key: str = ""
    builds_on: int | None = None
    chunks: list[ChunkRow] = msgspec.field(default_factory=list)
    relabelled: list[ChunkLabels] = msgspec.field(default_factory=list)
    files: list[FileRecord] = msgspec.field(default_factory=list)
    tombstones: list[str] = msgspec.field(default_factory=list)  # chunk ids
    removed_files: list[str] = msgspec.field(default_factory=list)  # object keys


class DocumentDeleted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document is deleted: every chunk id and object key that a sink may still hold."""

    doc_id: str
    version: int
    history_id: str
    part: int = 1
    parts: int = 1
    tombstones: list[str] = msgspec.field(default_factory=list)
    removed_files: list[str] = msgspec.field(default_factory=list)


Event = DocumentUpserted | DocumentDeleted
EVENT_TYPES: Final[Mapping[str, type[DocumentUpserted] | type[DocumentDeleted]]] = {
    UPSERTED: DocumentUpserted,
    DELETED: DocumentDeleted,
}


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """An encoded event, with the fields that a relay and a consumer need without decoding the payload."""

    event_id: str
    event_type: str
    doc_id: str
    version: int
    content_type: str
    payload: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


_ENCODERS: Final[Mapping[str, msgspec.msgpack.Encoder | msgspec.json.Encoder]] = {
    MSGPACK: msgspec.msgpack.Encoder(),
    JSON: msgspec.json.Encoder(),
}
_Decoder = msgspec.msgpack.Decoder[Event] | msgspec.json.Decoder[Event]
_DECODERS: Final[Mapping[tuple[str, str], _Decoder]] = {
    (MSGPACK, UPSERTED): msgspec.msgpack.Decoder(DocumentUpserted),
    (MSGPACK, DELETED): msgspec.msgpack.Decoder(DocumentDeleted),
    (JSON, UPSERTED): msgspec.json.Decoder(DocumentUpserted),
    (JSON, DELETED): msgspec.json.Decoder(DocumentDeleted),
}


def encode(value: object, content_type: str) -> bytes:
    """Encode an event, or a part of one, in the given content type."""
    return _ENCODERS[content_type].encode(value)


def event_type(event: Event) -> str:
    return UPSERTED if isinstance(event, DocumentUpserted) else DELETED


def decode(envelope: Envelope) -> Event:
    """Decode the event. Raises MalformedEvent for an unknown type, wrong fields, or another document or version."""
    decoder = _DECODERS.get((envelope.content_type, envelope.event_type))
    if decoder is None:
        raise MalformedEvent(f"cannot read event type {envelope.event_type!r} as {envelope.content_type!r}")
    try:
        event: Event = decoder.decode(envelope.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent(f"{envelope.event_type}: {error}") from error
    if (event.doc_id, event.version) != (envelope.doc_id, envelope.version):
        raise MalformedEvent(
            f"the envelope names {envelope.doc_id!r} version {envelope.version}, "
            f"the payload {event.doc_id!r} version {event.version}"
        )
    if not 1 <= event.part <= event.parts:
        raise MalformedEvent(f"part {event.part} of {event.parts}")
    return event
