"""Events from other languages decode into the same structs; malformed events are refused, never guessed."""

import base64

import pytest

from schema.events import events
from schema.events.events import (
    ChunkLabels,
    ChunkRow,
    DocumentDeleted,
    DocumentUpserted,
    Envelope,
    FileRecord,
    MalformedEvent,
)

pytestmark = pytest.mark.unit

# Vectors are base64 of little-endian float32: [1.0, -2.5] is 00 00 80 3f  00 00 20 c0.
# Sparse weights are pairs of uint32 and float32: {5: 0.5} is 05 00 00 00  00 00 00 3f.
UPSERTED_JSON = """
{
  "doc_id": "手册-😀",
  "version": 7,
  "history_id": "history-1",
  "embedding_model": "wordllama",
  "dimension": 2,
  "title": "The manual",
  "source_type": "pdf",
  "chunk_count": 2,
  "part": 1,
  "parts": 1,
  "business_tag": "support",
  "language": "zh",
  "oss_key": "raw-files/pdf/2025/01/31/手册-😀.pdf",
  "chunks": [
    {
      "chunk_id": "09806c259968b0bafcdd5700bddd1340",
      "content_hash": "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
      "content": "alpha",
      "vector": "AACAPwAAIMA=",
      "sparse": "BQAAAAAAAD8=",
      "vector_level": "table",
      "modal_type": "image"
    }
  ],
  "relabelled": [{"chunk_id": "22cf008bad59f56e16bdf1bb6a37abcf", "associate_id": "figure-1"}],
  "files": [
    {
      "object_key": "processed-data/extracted-text/手册-😀.txt",
      "content_type": "text/plain",
      "sha256": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
      "size_bytes": 6,
      "content": "aGVsbG8K"
    },
    {
      "object_key": "raw-files/pdf/2025/01/31/手册-😀.pdf",
      "content_type": "application/pdf",
      "sha256": "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
      "size_bytes": 70000,
      "staged_key": "temp/upload_1/file"
    }
  ],
  "tombstones": ["4ccf6b2654dbf237392de788a6621f88"],
  "removed_files": ["raw-files/word/2025/01/31/手册-😀.docx"],
  "a_field_of_a_later_release": {"deep": [1, 2]}
}
"""
UPSERTED = DocumentUpserted(
    doc_id="手册-😀",
    version=7,
    history_id="history-1",
    embedding_model="wordllama",
    dimension=2,
    title="The manual",
    source_type="pdf",
    chunk_count=2,
    part=1,
    parts=1,
    source_url="",
    business_tag="support",
    domain="",
    language="zh",
    oss_key="raw-files/pdf/2025/01/31/手册-😀.pdf",
    chunks=[
        ChunkRow(
            chunk_id="09806c259968b0bafcdd5700bddd1340",
            content_hash="8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
            content="alpha",
            vector=b"\x00\x00\x80\x3f\x00\x00\x20\xc0",
            sparse=b"\x05\x00\x00\x00\x00\x00\x00\x3f",
            vector_level="table",
            modal_type="image",
            associate_id="",
        )
    ],
    relabelled=[
        ChunkLabels(
            chunk_id="22cf008bad59f56e16bdf1bb6a37abcf", vector_level="text", modal_type="text", associate_id="figure-1"
        )
    ],
    files=[
        FileRecord(
            object_key="processed-data/extracted-text/手册-😀.txt",
            content_type="text/plain",
            sha256="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            size_bytes=6,
            content=b"hello\n",
            staged_key=None,
        ),
        FileRecord(
            object_key="raw-files/pdf/2025/01/31/手册-😀.pdf",
            content_type="application/pdf",
            sha256="8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8",
            size_bytes=70_000,
            content=None,
            staged_key="temp/upload_1/file",
        ),
    ],
    tombstones=["4ccf6b2654dbf237392de788a6621f88"],
    removed_files=["raw-files/word/2025/01/31/手册-😀.docx"],
)
DELETED_JSON = (
    '{"doc_id": "doc-1", "version": 3, "history_id": "h", "part": 2, "parts": 2, "tombstones": ["t"],'
    ' "removed_files": ["k"]}'
)
DELETED = DocumentDeleted(
    doc_id="doc-1", version=3, history_id="h", part=2, parts=2, tombstones=["t"], removed_files=["k"]
)

# {"doc_id": "doc-1", "version": 3, "history_id": "h"} by the MessagePack specification: fixmap of 3, fixstr of 6, 5, 7
# bytes, fixint, fixstr of 10 and of 1 byte
DELETED_MSGPACK = b"\x83" + b"\xa6doc_id" + b"\xa5doc-1" + b"\xa7version" + b"\x03" + b"\xaahistory_id" + b"\xa1h"

SMALL = (
    '{"doc_id":"doc-1","version":3,"history_id":"h","embedding_model":"m","dimension":1,"title":"t","source_type":"pdf",'
    '"chunk_count":0'
)


def envelope(
    payload: bytes | str, event_type: str = events.UPSERTED, content_type: str = events.JSON, version: int = 3
) -> Envelope:
    data = payload.encode() if isinstance(payload, str) else payload
    return Envelope("event-1", event_type, "doc-1", version, content_type, data)


def test_upsert_from_another_language_is_decoded() -> None:
    written = Envelope("event-1", "rag.document.upserted.v1", "手册-😀", 7, "application/json", UPSERTED_JSON.encode())
    assert events.decode(written) == UPSERTED


def test_deletion_from_another_language_is_decoded() -> None:
    assert events.decode(envelope(DELETED_JSON, events.DELETED)) == DELETED
    short = DocumentDeleted(doc_id="doc-1", version=3, history_id="h", part=1, parts=1, tombstones=[], removed_files=[])
    assert events.decode(envelope(DELETED_MSGPACK, events.DELETED, events.MSGPACK)) == short


@pytest.mark.parametrize("content_type", ["application/json", "application/msgpack"])
@pytest.mark.parametrize("event", [UPSERTED, DELETED], ids=["upserted", "deleted"])
def test_event_is_equal_after_encoding_and_decoding(event: events.Event, content_type: str) -> None:
    payload = events.encode(event, content_type)
    encoded = Envelope("event-1", events.event_type(event), event.doc_id, event.version, content_type, payload)
    assert events.decode(encoded) == event


def test_encodings_are_json_and_messagepack() -> None:
    assert events.encode(DocumentDeleted(doc_id="doc-1", version=3, history_id="h"), events.MSGPACK) == DELETED_MSGPACK
    assert (
        events.encode(DocumentDeleted(doc_id="doc-1", version=3, history_id="h"), events.JSON)
        == b'{"doc_id":"doc-1","version":3,"history_id":"h"}'
    )
    assert b'"vector":"AACAPwAAIMA="' in events.encode(UPSERTED, events.JSON)
    assert b"\xa6vector\xc4\x08\x00\x00\x80\x3f\x00\x00\x20\xc0" in events.encode(UPSERTED, events.MSGPACK)  # bin 8


def test_chunk_without_sparse_weights_keeps_its_encoding() -> None:
    before = b'{"chunk_id":"c","content_hash":"h","content":"a","vector":"AACAPw=="}'
    row = ChunkRow(chunk_id="c", content_hash="h", content="a", vector=b"\x00\x00\x80\x3f")
    assert events.encode(row, events.JSON) == before
    decoded = events.decode(envelope(SMALL + ',"chunks":[' + before.decode() + "]}"))
    assert isinstance(decoded, DocumentUpserted)
    assert decoded.chunks == [row]
    assert decoded.chunks[0].sparse == b""
    assert events.encode(decoded.chunks[0], events.JSON) == before


def test_smallest_upsert_is_decoded() -> None:
    assert events.decode(envelope(SMALL + "}")) == DocumentUpserted(
        doc_id="doc-1",
        version=3,
        history_id="h",
        embedding_model="m",
        dimension=1,
        title="t",
        source_type="pdf",
        chunk_count=0,
    )


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (SMALL.replace('"t"', "5") + "}", r"Expected `str`, got `int` - at `\$.title`"),
        (SMALL.replace(":3", ':"3"') + "}", r"Expected `int`, got `str` - at `\$.version`"),
        (SMALL.replace(":3", ":3.5") + "}", r"Expected `int`, got `float` - at `\$.version`"),
        (SMALL.replace(":3", ":true") + "}", r"Expected `int`, got `bool` - at `\$.version`"),
        (SMALL.replace(":3", ":null") + "}", r"Expected `int`, got `null` - at `\$.version`"),
        (SMALL.replace('"title":"t",', "") + "}", "missing required field `title`"),
        (SMALL.replace('"doc_id":"doc-1",', "") + "}", "missing required field `doc_id`"),
        (SMALL + ',"chunks":[{"chunk_id":"c","content_hash":"h","content":"a"}]}', r"missing required field `vector`"),
        (
            SMALL + ',"chunks":[{"chunk_id":"c","content_hash":"h","content":"a","vector":"AAC*"}]}',
            r"Invalid base64 encoded string - at `\$.chunks\[0\].vector`",
        ),
        (
            SMALL + ',"chunks":[{"chunk_id":"c","content_hash":"h","content":"a","vector":"AAC"}]}',
            "Invalid base64",
        ),
        (
            SMALL + ',"chunks":[{"chunk_id":"c","content_hash":"h","content":"a","vector":[1.0]}]}',
            "Expected `bytes`, got `array`",
        ),
        (SMALL + ',"tombstones":"t"}', "Expected `array`, got `str`"),
        (SMALL + ',"part":0}', "part 0 of 1"),
        (SMALL + ',"part":3,"parts":2}', "part 3 of 2"),
        (SMALL, "truncated"),
        (SMALL + "} trailing", "malformed"),
        ("", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ("not JSON", "malformed"),
        (SMALL.encode().replace(b'"t"', b'"\xff"') + b"}", "invalid start byte"),
        (SMALL + ',"later":' + "[" * 100_000, "recursion"),
    ],
)
def test_malformed_json_is_refused(payload: bytes | str, words: str) -> None:
    with pytest.raises(MalformedEvent, match=words):
        events.decode(envelope(payload))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "truncated"),
        (DELETED_MSGPACK[:-1], "truncated"),
        (DELETED_MSGPACK + b"\x00", "malformed"),
        (DELETED_MSGPACK.replace(b"\x03", b"\xa13"), r"Expected `int`, got `str`"),
        (DELETED_MSGPACK.replace(b"doc-1", b"doc-\xff"), "invalid start byte"),
        (b"\x81\xa7version\x03", "missing required field `doc_id`"),
        (b"\xc1", "malformed"),
        (DELETED_JSON.encode(), "Expected `object`"),
        (b"\x81\xa5later" + b"\x91" * 100_000, "recursion"),
    ],
)
def test_malformed_messagepack_is_refused(payload: bytes, words: str) -> None:
    with pytest.raises(MalformedEvent, match=words):
        events.decode(envelope(payload, events.DELETED, events.MSGPACK))


@pytest.mark.parametrize("content_type", [events.JSON, events.MSGPACK])
def test_every_truncation_is_refused(content_type: str) -> None:
    payload = events.encode(UPSERTED, content_type)
    for end in range(len(payload)):
        with pytest.raises(MalformedEvent):
            events.decode(Envelope("event-1", events.UPSERTED, "手册-😀", 7, content_type, payload[:end]))


@pytest.mark.parametrize(
    ("event_type", "content_type"),
    [
        (events.UPSERTED, "text/plain"),
        (events.UPSERTED, ""),
        (events.UPSERTED, "application/json; charset=utf-8"),
        ("rag.document.upserted.v2", events.JSON),
        ("", events.JSON),
    ],
)
def test_unknown_event_or_content_type_is_refused(event_type: str, content_type: str) -> None:
    with pytest.raises(MalformedEvent, match="cannot read event type"):
        events.decode(envelope(SMALL + "}", event_type, content_type))


def test_payload_of_another_document_or_version_is_refused() -> None:
    with pytest.raises(MalformedEvent, match="the envelope names 'doc-1' version 4, the payload 'doc-1' version 3"):
        events.decode(envelope(SMALL + "}", version=4))
    other = SMALL.replace("doc-1", "doc-2")
    with pytest.raises(MalformedEvent, match="the envelope names 'doc-1' version 3, the payload 'doc-2' version 3"):
        events.decode(envelope(other + "}"))


def test_line_breaks_in_base64_are_refused() -> None:
    wrapped = base64.encodebytes(bytes(4 * 64)).decode().replace("\n", "\\n")
    chunk = f'{{"chunk_id":"c","content_hash":"h","content":"a","vector":"{wrapped}"}}'
    with pytest.raises(MalformedEvent, match="Invalid base64"):
        events.decode(envelope(SMALL + f',"chunks":[{chunk}]}}'))
