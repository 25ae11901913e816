"""Outbox rows packed in one value, written by hand as MySQL builds it."""

import json

import pytest

from relays.outbox import unpack

pytestmark = pytest.mark.unit


def packed(payload: bytes, *head: object) -> bytes:
    return json.dumps([len(payload), *head]).encode() + b"\n" + payload


ANY = packed(
    b"pay\n \x00load",
    *(17, 3, "2026-11-21T01:02:03.000004+00:00", "id\n1", "type", "doc 😀\x00", 5, "content/type"),
    {"traceparent": "00-1", "n": 2},
)


def test_texts_headers_and_payload_may_hold_any_byte() -> None:
    [row, again] = unpack(ANY + ANY, "history")
    assert row == again
    assert row.history_id == "history"
    assert (row.id, row.lane, row.created_at) == (17, 3, "2026-11-21T01:02:03.000004+00:00")
    envelope = row.envelope
    assert (envelope.event_id, envelope.doc_id, envelope.version) == ("id\n1", "doc 😀\x00", 5)
    assert (envelope.event_type, envelope.content_type) == ("type", "content/type")
    assert envelope.headers == {"traceparent": "00-1", "n": "2"}
    assert envelope.payload == b"pay\n \x00load"


@pytest.mark.parametrize("headers", [None, [1], 7])
def test_headers_that_are_not_an_object_are_dropped(headers: object) -> None:
    [row] = unpack(packed(b"", 1, 0, "2026-11-21T00:00:00.000000+00:00", "a", "b", "c", 1, "d", headers), "history")
    assert row.envelope.headers == {}
    assert row.envelope.payload == b""


def test_truncated_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="outbox row 17 is cut off"):
        list(unpack(ANY + ANY[:-1], "history"))
