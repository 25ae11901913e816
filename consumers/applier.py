"""Apply a batch of events to one sink: decode, drop what the sink already holds, apply, mark.

Invariant 6: versions are fenced here, so an event applied twice, or after a newer one, changes nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from consumers import marks
from consumers.marks import Known
from consumers.sink import Change, Sink
from schema.batches import bounded
from schema.database.connection import is_transient, reading
from schema.events.events import Envelope, Event, MalformedEvent, decode
from schema.failures import DeadLetter, Permanent, Retryable

_log = logging.getLogger(__name__)

_CHANGES_A_MARK = 500
_CHUNKS_A_MARK = 2_000

Refused = dict[tuple[str, int], str]  # (doc_id, version) and why


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
            events, refused = self._decode(envelopes)
            with reading(self._engine) as connection:
                known = marks.known(connection, self._sink.name, {event.doc_id for event in events})
            changes = self._newest(events, known, refused)
            held, refused = self._apply_and_mark(changes, known, refused)
            self._sink.settle([event for event in events if event.version <= held.get(event.doc_id, 0)])
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

    def _newest(self, events: Sequence[Event], known: Mapping[str, Known], refused: Refused) -> list[Change]:
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
        return changes

    def _apply_and_mark(
        self, changes: Sequence[Change], known: Mapping[str, Known], refused: Refused
    ) -> tuple[dict[str, int], Refused]:
        """Apply a part of the changes after another; the database marks one while the sink takes the next.

        Returns the version that the sink holds of each document, and what it refuses.
        """
        held = {doc_id: document.applied_version for doc_id, document in known.items()}
        kept: Refused = {}
        marking: Future[None] | None = None

        def mark(some: Sequence[Change], refused: Refused) -> None:
            applied = [change for change in some if (change.doc_id, change.version) not in refused]
            newly_held, still_refused = self._mark(applied, known, refused)
            held.update(newly_held)
            kept.update(still_refused)

        parts = list(bounded(changes, _CHANGES_A_MARK, _CHUNKS_A_MARK, lambda change: change.chunks))
        if refused and not parts:
            parts = [[]]
        with ThreadPoolExecutor(1, thread_name_prefix=f"mark-{self.name}") as pool:
            for some in parts:
                refused |= self._apply(some)
                if marking is not None:
                    marking.result()
                marking, refused = pool.submit(mark, some, refused), {}
            if marking is not None:
                marking.result()
        return held, kept

    def _apply(self, changes: Sequence[Change]) -> Refused:
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

    def _mark(
        self, changes: Sequence[Change], known: Mapping[str, Known], refused: Mapping[tuple[str, int], str]
    ) -> tuple[dict[str, int], Refused]:
        """Mark what nobody else marked meanwhile: a consumer that lost its partitions may apply beside the new owner.

        The sinks have no conditional write, so two of them mix. Whoever marks second finds out: the one with the newer
        version applies it again, and the one with the older tells what harm it did. Returns the version that the sink
        holds of each document, and what is still refused.
        """
        doc_ids = {change.doc_id for change in changes}
        touched = doc_ids | {doc_id for doc_id, _ in refused}
        with self._engine.begin() as connection:
            marks.lock(connection, touched)
            now = marks.known(connection, self._sink.name, touched)
            refused = {one: reason for one, reason in refused.items() if not _overtaken(one, known, now)}
            overtaken = [change for change in changes if change.version < now[change.doc_id].applied_version]
            mine = [change for change in changes if change.version > now[change.doc_id].applied_version]
            for change in mine:
                if now[change.doc_id].marks != known[change.doc_id].marks:
                    raise Retryable(f"another consumer applied document {change.doc_id!r} meanwhile")
            harms = {change.doc_id: self._sink.harm(connection, change) for change in overtaken}
            marks.harmed(connection, self._sink.name, {doc_id: harm for doc_id, harm in harms.items() if harm})
            self._sink.mark(connection, mine)
            marks.applied(connection, self._sink.name, mine)
            marks.counted(connection, self._sink.name, doc_ids)
            marks.failed(connection, self._sink.name, refused)
        for change in overtaken:
            _log.warning(
                "applied_late sink=%s doc_id=%s version=%d newer=%d harm=%s",
                *(self._sink.name, change.doc_id, change.version, now[change.doc_id].applied_version),
                harms[change.doc_id],
            )
        held = {doc_id: document.applied_version for doc_id, document in now.items()}
        return held | {change.doc_id: change.version for change in mine if change.complete}, refused


def _overtaken(one: tuple[str, int], known: Mapping[str, Known], now: Mapping[str, Known]) -> bool:
    """Whether somebody else applied this version, or a newer one, since `known` was read."""
    doc_id, version = one
    return doc_id in known and doc_id in now and known[doc_id].applied_version < version <= now[doc_id].applied_version
