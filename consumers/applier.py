"""Apply a batch of events to one sink: decode, drop what the sink already holds, apply, mark.

Invariant 6: versions are fenced here, so an event applied twice, or after a newer one, changes nothing.
"""

import logging
from collections.abc import Sequence

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from consumers import marks
from consumers.sink import Change, Sink
from schema.database import is_transient, reading
from schema.events import Envelope, Event, MalformedEvent, decode
from schema.failures import DeadLetter, Permanent, Retryable

_log = logging.getLogger(__name__)


class Applier:
    """The part of the consumer loop that every runtime shares; `sink.ensure()` has been called."""

    def __init__(self, engine: Engine, sink: Sink) -> None:
        self._engine = engine
        self._sink = sink

    @property
    def name(self) -> str:
        return self._sink.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good. Raises Retryable: apply them all again.

        When it returns, everything but the dead letters is in the sink and marked.
        """
        try:
            changes, refused = self._newest(*self._decode(envelopes))
            refused |= self._apply(changes)
            self._mark([change for change in changes if (change.doc_id, change.version) not in refused], refused)
        except DBAPIError as error:
            if is_transient(error):
                raise Retryable(f"metadata database: {error.orig}") from error
            raise
        return [
            DeadLetter(self._sink.name, envelope, refused[envelope.doc_id, envelope.version])
            for envelope in envelopes
            if (envelope.doc_id, envelope.version) in refused
        ]

    def _decode(self, envelopes: Sequence[Envelope]) -> tuple[list[Event], dict[tuple[str, int], str]]:
        events: list[Event] = []
        refused: dict[tuple[str, int], str] = {}
        for envelope in envelopes:
            try:
                events.append(decode(envelope))
            except MalformedEvent as error:
                refused[envelope.doc_id, envelope.version] = str(error)
        return events, refused

    def _newest(
        self, events: Sequence[Event], refused: dict[tuple[str, int], str]
    ) -> tuple[list[Change], dict[tuple[str, int], str]]:
        """One change a document: its newest version, unless the sink holds it. Skipping older ones is invariant 7.

        A version is refused whole: after a refused part, its tombstones must not remove what the part should replace.
        """
        parts: dict[str, list[Event]] = {}
        for event in events:
            kept = parts.setdefault(event.doc_id, [])
            if kept and kept[0].version < event.version:
                kept.clear()
            if not kept or kept[0].version == event.version:
                kept.append(event)
        with reading(self._engine) as connection:
            known = marks.known(connection, self._sink.name, parts)
        changes = []
        for doc_id, kept in parts.items():
            version, document = kept[0].version, known.get(doc_id)
            if document is None:
                _log.warning("event_without_document doc_id=%s version=%d", doc_id, version)
            elif version > document.version:
                refused[doc_id, version] = f"the document is at version {document.version}, the event ahead of it"
            elif version == document.refused_version:
                refused.setdefault((doc_id, version), document.reason)
            elif version > document.applied_version and (doc_id, version) not in refused:
                changes.append(Change(doc_id, version, tuple(kept)))
        return changes, refused

    def _apply(self, changes: Sequence[Change]) -> dict[tuple[str, int], str]:
        """Apply, halving a batch that the sink refuses, down to the documents at fault."""
        if not changes:
            return {}
        try:
            self._sink.apply(changes)
        except Permanent as error:
            if len(changes) == 1:
                return {(changes[0].doc_id, changes[0].version): str(error)}
            middle = len(changes) // 2
            return self._apply(changes[:middle]) | self._apply(changes[middle:])
        return {}

    def _mark(self, changes: Sequence[Change], refused: dict[tuple[str, int], str]) -> None:
        if not changes and not refused:
            return
        with self._engine.begin() as connection:
            marks.lock(connection, [change.doc_id for change in changes] + [doc_id for doc_id, _ in refused])
            self._sink.mark(connection, changes)
            moved = marks.applied(connection, self._sink.name, changes)
            marks.failed(connection, self._sink.name, refused)
        if moved != (expected := sum(change.complete for change in changes)):
            _log.warning("marks_passed_over sink=%s complete=%d moved=%d", self._sink.name, expected, moved)
