"""Describes the payload of a dead letter for a person: vectors and bytes are shortened."""

from typing import Any

import msgspec
import numpy as np

from operations.dead_letters.letters import Letter
from schema.events.events import Event, MalformedEvent, decode

_NUMBERS_SHOWN = 3


def describe_payload(letter: Letter, payload: bytes) -> dict[str, Any]:
    """The fields of the event, or why it cannot be read."""
    try:
        event = decode(letter.envelope(payload))
    except MalformedEvent as error:
        return {"unreadable": str(error)}
    return _shorten(event)


def _shorten(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.structs.asdict(event)
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = [_shorten_item(item) if isinstance(item, msgspec.Struct) else item for item in value]
    return fields


def _shorten_item(item: msgspec.Struct) -> dict[str, Any]:
    found = msgspec.structs.asdict(item)
    for name, value in found.items():
        if isinstance(value, bytes):
            found[name] = _shorten_vector(value) if name == "vector" else f"{len(value)} bytes"
    return found


def _shorten_vector(vector: bytes) -> str:
    if len(vector) % 4:
        return f"{len(vector)} bytes, not a multiple of 4"
    numbers = np.frombuffer(vector, "<f4")
    first = ", ".join(f"{number:.4g}" for number in numbers[:_NUMBERS_SHOWN])
    return f"{len(numbers)} float32: {first}{', …' if len(numbers) > _NUMBERS_SHOWN else ''}"
