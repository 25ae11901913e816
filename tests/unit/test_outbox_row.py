"""An outbox row in one column, written by hand as MySQL makes it."""

import json

import pytest

from relays.outbox_row import unpack

pytestmark = pytest.mark.unit


def test_any_byte_may_stand_in_texts_headers_and_payload() -> None:
    head = [17, 3, "2026-11-21T01:02:03.000004+00:00", "id\n1", "type", "doc 😀\x00", 5, "content/type"]
    row = unpack(json.dumps([*head, {"traceparent": "00-1", "n": 2}]).encode() + b"\npay\n \x00load")
    assert (row.id, row.lane, row.created_at) == (17, 3, "2026-11-21T01:02:03.000004+00:00")
    envelope = row.envelope
    assert (envelope.event_id, envelope.doc_id, envelope.version) == ("id\n1", "doc 😀\x00", 5)
    assert (envelope.event_type, envelope.content_type) == ("type", "content/type")
    assert envelope.headers == {"traceparent": "00-1", "n": "2"}
    assert envelope.payload == b"pay\n \x00load"


@pytest.mark.parametrize("headers", ["null", "[1]", "7"])
def test_headers_that_are_no_object_are_none(headers: str) -> None:
    row = unpack(f'[1, 0, "2026-11-21T00:00:00.000000+00:00", "a", "b", "c", 1, "d", {headers}]\n'.encode())
    assert row.envelope.headers == {}
    assert row.envelope.payload == b""
