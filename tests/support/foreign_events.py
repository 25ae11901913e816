"""Events as another history, or a faulty writer, would have written them."""

from typing import Any

import msgspec

from schema.events.events import Envelope, decode, encode

LOST = "a lost history"


def forge(envelope: Envelope, **fields: Any) -> Envelope:
    """The event with other fields; its envelope names the same document and version."""
    event = msgspec.structs.replace(decode(envelope), **fields)
    payload = encode(event, envelope.content_type)
    return msgspec.structs.replace(envelope, doc_id=event.doc_id, version=event.version, payload=payload)


def lose(envelope: Envelope, **fields: Any) -> Envelope:
    """The event as written in a history whose last commits the database no longer has."""
    return forge(envelope, history_id=LOST, **fields)
