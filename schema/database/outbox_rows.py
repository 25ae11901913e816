"""A row of the outbox as the envelope that a relay publishes."""

from typing import Any

from sqlalchemy import Row

from schema.events.events import Envelope


def envelope_of(row: Row[Any]) -> Envelope:
    """The envelope in a row with all columns of `outbox`."""
    return Envelope(
        row.event_id,
        row.event_type,
        row.aggregate_id,
        row.aggregate_version,
        row.content_type,
        row.payload,
        row.headers if isinstance(row.headers, dict) else {},  # a writer in another language may put anything there
    )
