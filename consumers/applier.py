"""Apply a batch of events to one sink: decode, drop what the sink already holds, apply, mark.

Invariant 6: versions are fenced here, so an event that is applied twice, or after a newer one, changes nothing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from consumers import marks
from consumers.marking import Marking, Refused
from consumers.marks import Known, SinkMarks
from consumers.sink import Change, Sink
from schema.batches import bounded
from schema.database.connection import is_transient, reading
from schema.events.events import Envelope, Event, MalformedEvent, decode
from schema.failures import DeadLetter, Permanent, Retryable

_log = logging.getLogger(__name__)

_CHANGES_PER_MARK = 500
_CHUNKS_PER_MARK = 2_000


class Applier:
    """Keeps one sink up to date; `sink.ensure()` has been called.

    `new_executor` makes the executor, with one thread, that marks in the background during one batch.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        sink_marks: SinkMarks,
        *,
        new_executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, thread_name_prefix="mark"),
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._sink_marks = sink_marks
        self._new_executor = new_executor

    @property
    def name(self) -> str:
        return self._sink.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good.

        On return the sink holds, and the marks show, everything else. Raises Retryable: apply all of them again.
        """
        try:
            events, refused = self._decode(envelopes)
            known = self._load_known(events)
            changes, refused = self._drop_held(events, known, refused)
            held, refused = self._apply_and_mark(changes, known, refused)
            self._sink.clean_up([event for event in events if event.version <= held.get(event.doc_id, 0)])
        except DBAPIError as error:
            if is_transient(error):
                raise Retryable(f"metadata database: {error.orig}") from error
            raise
        return [
            DeadLetter(self._sink.name, envelope, refused[envelope.doc_id, envelope.version])
            for envelope in envelopes
            if (envelope.doc_id, envelope.version) in refused
        ]

    def _decode(self, envelopes: Sequence[Envelope]) -> tuple[list[Event], Refused]:
        events: list[Event] = []
        refused: Refused = {}
        for envelope in envelopes:
            try:
                events.append(decode(envelope))
            except MalformedEvent as error:
                refused[envelope.doc_id, envelope.version] = str(error)
        return events, refused

    def _load_known(self, events: Sequence[Event]) -> dict[str, Known]:
        with reading(self._engine) as connection:
            return marks.load_known(connection, self._sink.name, {event.doc_id for event in events})

    def _drop_held(
        self, events: Sequence[Event], known: Mapping[str, Known], refused: Refused
    ) -> tuple[list[Change], Refused]:
        """The newest version of each document that the sink does not hold, and what is refused.

        Older versions are skipped (invariant 7). A version is refused as a whole: after a refused part, its tombstones
        must not remove the rows that the part should replace.
        """
        refused = dict(refused)
        changes = []
        for doc_id, parts in _group_newest(events).items():
            version, document = parts[0].version, known.get(doc_id)
            if document is None:
                _log.warning("event_without_document doc_id=%s version=%d", doc_id, version)
            elif version > document.version:
                refused[doc_id, version] = f"the document is at version {document.version}, the event ahead of it"
            elif version == document.refused_version:
                refused.setdefault((doc_id, version), document.reason)
            elif version > document.applied_version and (doc_id, version) not in refused:
                changes.append(Change(doc_id, version, tuple(parts)))
        return changes, refused

    def _apply_and_mark(
        self, changes: Sequence[Change], known: Mapping[str, Known], refused: Refused
    ) -> tuple[dict[str, int], Refused]:
        """Returns the version that the sink holds per document, and what it refuses."""
        parts = list(bounded(changes, _CHANGES_PER_MARK, _CHUNKS_PER_MARK, lambda change: change.chunks))
        if refused and not parts:
            parts = [[]]
        with self._new_executor() as executor:  # waits for marks under way, also after a failure
            marking = Marking(self._engine, self._sink.name, self._sink_marks, known, executor)
            for part in parts:
                marking.submit(part, refused | self._apply(part))
                refused = {}
            return marking.finish()

    def _apply(self, changes: Sequence[Change]) -> Refused:
        """Apply; halve a batch that the sink refuses until only the documents at fault are left. Returns those."""
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


def _group_newest(events: Sequence[Event]) -> dict[str, list[Event]]:
    """doc_id and the parts of its newest version, in order."""
    newest: dict[str, list[Event]] = {}
    for event in events:
        parts = newest.setdefault(event.doc_id, [])
        if parts and parts[0].version < event.version:
            parts.clear()
        if not parts or parts[0].version == event.version:
            parts.append(event)
    return newest
