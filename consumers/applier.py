"""Apply a batch of events to one sink: decode, select what the sink lacks, apply, mark.

Invariant 6: versions are fenced here, so an event that is applied twice, or after a newer one, changes nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace

from sqlalchemy import Engine

from consumers import marks
from consumers.marking import Marking, Part, Refused, Written
from consumers.marks import Known, SinkMarks
from consumers.removals import hold_back, is_empty, needs_earlier_parts
from consumers.selection import Selection, select_changes
from consumers.sink import Change, Sink
from schema.batches import bounded
from schema.database.connection import reading
from schema.events.events import Envelope, Event, MalformedEvent, decode
from schema.events.identity import doc_id_error
from schema.failures import DeadLetter, Permanent, SourceGone
from schema.limits import LAST_VERSION
from schema.retry import translate_transient

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
        self._written: Written = {}  # given to the sink by this process and not marked yet
        self.counts: Counter[str] = Counter()  # lost_history, part_missing, applied_late: how often each was found

    @property
    def name(self) -> str:
        return self._sink.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good.

        On return the sink holds, and the marks show, everything else. Raises Retryable: apply all of them again.
        """
        with translate_transient():
            events, refused = self._decode(envelopes)
            refused, bases = self._apply_newest(events, refused)
            if bases:  # now the versions that build on them
                doc_ids = {doc_id for doc_id, _ in bases}
                rest = {key: reason for key, reason in refused.items() if key[0] in doc_ids}
                more, _ = self._apply_newest([event for event in events if event.doc_id in doc_ids], rest, bases)
                refused |= more
        return [
            DeadLetter(self._sink.name, envelope, refused[envelope.doc_id, envelope.version])
            for envelope in envelopes
            if (envelope.doc_id, envelope.version) in refused
        ]

    def _apply_newest(
        self, events: Sequence[Event], refused: Refused, tried: Collection[tuple[str, int]] = ()
    ) -> tuple[Refused, set[tuple[str, int]]]:
        """Returns what the sink refuses, and the versions that were applied because newer ones build on them."""
        known = self._load_known(events)
        selection = select_changes(events, known, refused, tried)
        self._report_missing(selection)
        changes = self._arrange_removals(selection.changes, known)
        held, refused = self._apply_and_mark(replace(selection, changes=changes), known)
        unused = {_key(event) for event in (*selection.lost, *selection.superseded)}
        self._sink.clean_up([event for event in events if _is_done(event, held, unused)])
        return refused, selection.bases

    def _decode(self, envelopes: Sequence[Envelope]) -> tuple[list[Event], Refused]:
        events: list[Event] = []
        refused: Refused = {}
        for envelope in envelopes:
            try:
                event = decode(envelope)
                if problem := doc_id_error(event.doc_id):
                    raise MalformedEvent(problem)
                if not 1 <= event.version <= LAST_VERSION:
                    raise MalformedEvent(f"version {event.version}")
                events.append(event)
            except MalformedEvent as error:
                refused[envelope.doc_id, envelope.version] = str(error)
        return events, refused

    def _load_known(self, events: Sequence[Event]) -> dict[str, Known]:
        doc_ids = {event.doc_id for event in events} | {doc_id for doc_id, _ in self._written}
        with reading(self._engine) as connection:
            return marks.load_known(connection, self._sink.name, doc_ids)

    def _report_missing(self, selection: Selection) -> None:
        for doc_id, version, part in selection.missing_parts:
            _log.warning("part_missing sink=%s doc_id=%s version=%d part=%d", self._sink.name, doc_id, version, part)
        self.counts["part_missing"] += len(selection.missing_parts)

    def _arrange_removals(self, changes: Sequence[Change], known: Mapping[str, Known]) -> list[Change]:
        """Nothing is removed before the last part; that one removes what all parts do."""
        arranged = {one.doc_id: one if marks.has_all_parts(one, known) else hold_back(one) for one in changes}
        last = [one for one in changes if marks.has_all_parts(one, known) and needs_earlier_parts(one)]
        if last:
            with reading(self._engine) as connection:
                completed = self._sink_marks.complete_removals(connection, last)
            arranged |= {change.doc_id: change for change in completed}
        return list(arranged.values())

    def _apply_and_mark(self, selection: Selection, known: Mapping[str, Known]) -> tuple[dict[str, int], Refused]:
        """Returns the version that the sink holds per document, and what it refuses."""
        again = {(change.doc_id, change.version) for change in selection.changes}
        rewritten = {key: history_id for key, history_id in self._written.items() if key not in again}
        rest = Part((), selection.refused, selection.lost, rewritten)  # marked with the first changes
        parts = list(bounded(selection.changes, _CHANGES_PER_MARK, _CHUNKS_PER_MARK, lambda change: change.chunks))
        if not parts and (rest.refused or rest.lost or rest.rewritten):
            parts = [[]]
        with self._new_executor() as executor:  # waits for marks under way, also after a failure
            marking = Marking(
                self._engine,
                self._sink.name,
                self._sink_marks,
                known,
                executor,
                written=self._written,
                counts=self.counts,
            )
            for changes in parts:
                refused, superseded = self._apply(changes, known)
                refused = self._drop_absent(refused, known)
                held = [change for change in changes if (change.doc_id, change.version) not in superseded]
                marking.submit(Part(held, rest.refused | refused, rest.lost, rest.rewritten))
                rest = Part()
            return marking.finish()

    def _apply(self, changes: Sequence[Change], known: Mapping[str, Known]) -> tuple[Refused, set[tuple[str, int]]]:
        """Apply; halve a batch that the sink refuses until only the documents at fault are left.

        Returns those, and the versions whose source is gone because the document has a newer version.
        """
        changes = [change for change in changes if not is_empty(change)]
        if not changes:
            return {}, set()
        self._written.update({(change.doc_id, change.version): change.events[0].history_id for change in changes})
        try:
            self._sink.apply(changes)
        except Permanent as error:
            if len(changes) > 1:
                middle = len(changes) // 2
                first, second = self._apply(changes[:middle], known), self._apply(changes[middle:], known)
                return first[0] | second[0], first[1] | second[1]
            doc_id, version = changes[0].doc_id, changes[0].version
            if isinstance(error, SourceGone) and version < known[doc_id].version:
                _log.info("source_gone sink=%s doc_id=%s version=%d reason=%s", self.name, doc_id, version, error)
                return {}, {(doc_id, version)}
            return {(doc_id, version): str(error)}, set()
        return {}, set()

    def _drop_absent(self, refused: Refused, known: Mapping[str, Known]) -> Refused:
        """A sink may refuse an event because it lacks the document; the refill does not need the event."""
        absent = {key: reason for key, reason in refused.items() if known[key[0]].is_absent}
        for (doc_id, version), reason in absent.items():
            _log.warning(
                "refused_while_absent sink=%s doc_id=%s version=%d reason=%s", self._sink.name, doc_id, version, reason
            )
        return {key: reason for key, reason in refused.items() if key not in absent}


def _key(event: Event) -> tuple[str, int, str]:
    return event.doc_id, event.version, event.history_id


def _is_done(event: Event, held: Mapping[str, int], unused: Collection[tuple[str, int, str]]) -> bool:
    """Whether the sink holds the event's version; a file of another history may have another use."""
    return _key(event) not in unused and event.version <= held.get(event.doc_id, 0)
