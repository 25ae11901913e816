"""An outbox row in one column, written by hand as MySQL makes it."""

import pytest

from relays.outbox_row import unpack

pytestmark = pytest.mark.unit


def test_any_byte_may_stand_in_texts_headers_and_payload() -> None:
    texts = ["id\n1", "doc 😀\x00", "type", "content/type", '{"traceparent": "00-1", "n": 2}']
    lengths = " ".join(str(len(text.encode())) for text in texts)
    head = f"17 3 5 {lengths} 2026-11-21T01:02:03.000004+00:00\n"
    row = unpack(head.encode() + "".join(texts).encode() + b"pay\n \x00load")
    assert (row.id, row.lane, row.created_at) == (17, 3, "2026-11-21T01:02:03.000004+00:00")
    envelope = row.envelope
    assert (envelope.event_id, envelope.doc_id, envelope.version) == ("id\n1", "doc 😀\x00", 5)
    assert (envelope.event_type, envelope.content_type) == ("type", "content/type")
    assert envelope.headers == {"traceparent": "00-1", "n": "2"}
    assert envelope.payload == b"pay\n \x00load"


@pytest.mark.parametrize("headers", ["", "[1]", "7"])
def test_headers_that_are_no_object_are_none(headers: str) -> None:
    row = unpack(f"1 0 1 1 1 1 1 {len(headers)} 2026-11-21T00:00:00.000000+00:00\nabcd{headers}".encode())
    assert row.envelope.headers == {}
    assert row.envelope.payload == b""
