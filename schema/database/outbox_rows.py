"""Turns a row of the outbox into the envelope that a relay publishes."""

from typing import Any

from sqlalchemy import Row

from schema.events.events import Envelope


def envelope_of(row: Row[Any]) -> Envelope:
    """The envelope of a row that has all columns of `outbox`."""
    return Envelope(
        row.event_id,
        row.event_type,
        row.aggregate_id,
        row.aggregate_version,
        row.content_type,
        row.payload,
        row.headers if isinstance(row.headers, dict) else {},  # a writer in another language may store any JSON
    )
