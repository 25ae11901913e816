"""Apply a batch of events to one sink: decode, select what the sink lacks, apply, mark.

Invariant 6: versions are fenced here, so an event that is applied twice, or after a newer one, changes nothing.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from sqlalchemy import Engine

from consumers import marks
from consumers.isolation import Isolation, Key
from consumers.marking import Marking, Part, Refused, Written
from consumers.marks import Known, SinkMarks
from consumers.removals import hold_back, is_empty, needs_earlier_parts
from consumers.selection import Selection, select_changes
from consumers.sink import Change, Sink
from schema.batches import bounded
from schema.database.connection import reading
from schema.events.events import Envelope, Event, MalformedEvent, decode
from schema.events.identity import doc_id_error
from schema.failures import DeadLetter, DocumentLost, Retryable, SomeFail, SourceGone
from schema.limits import LAST_VERSION
from schema.retry import translate_transient

_log = logging.getLogger(__name__)

_CHANGES_PER_MARK = 500
_CHUNKS_PER_MARK = 2_000
_CHECK_SECONDS = 10.0  # between two checks that the store is still there and of this system


@dataclass
class _Applied:
    """What the sink did not take of a part, and why."""

    refused: Refused = field(default_factory=dict)
    superseded: set[Key] = field(default_factory=set)  # the source is gone, because the document has a newer version
    lost: dict[Key, str] = field(default_factory=dict)  # and the reason: the sink lost what the version builds on
    failing: dict[Key, Retryable] = field(default_factory=dict)

    def has_taken(self, change: Change) -> bool:
        key = (change.doc_id, change.version)
        return not (key in self.superseded or key in self.failing or key in self.lost)


class Applier:
    """Keeps one sink up to date; `sink.ensure()` has been called.

    `new_executor` makes the executor, with one thread, that marks in the background during one batch. `note_database`
    is called when the metadata database has answered. `clock` returns seconds.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        sink_marks: SinkMarks,
        *,
        new_executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, thread_name_prefix="mark"),
        note_database: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._sink_marks = sink_marks
        self._new_executor = new_executor
        self._note_database = note_database
        self._clock = clock
        self._check_at = clock() + _CHECK_SECONDS
        self._isolation = Isolation(sink, clock=clock)
        self._written: Written = {}  # given to the sink by this process and not marked yet
        self.counts: Counter[str] = Counter()  # lost_history, part_missing, applied_late: how often each was found

    @property
    def name(self) -> str:
        return self._sink.name

    def apply(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        """Apply events in order; returns those that the sink refuses for good.

        On return the sink holds, and the marks show, all other events. Raises SomeFail if the sink failed on some
        documents and holds all others. Raises Retryable if it may have failed on any of them: apply all again; what it
        took is marked. Raises StoreMissing and OtherSystem when the store is not that of this system.
        """
        self._check_store()
        self._isolation.begin()
        try:
            return self._apply_events(envelopes)
        except Retryable:
            self._report_failing()
            raise

    def count_failing(self) -> int:
        """The documents on which the sink has failed for minutes while its store answers. Any thread may ask."""
        return self._isolation.failing.count()

    def _apply_events(self, envelopes: Sequence[Envelope]) -> list[DeadLetter]:
        with translate_transient():
            events, refused = self._decode(envelopes)
            failing: dict[str, Retryable] = {}  # by doc_id
            refused, bases = self._apply_newest(events, refused, failing)
            if doc_ids := {doc_id for doc_id, _ in bases} - failing.keys():  # now the versions that build on them
                rest = {key: reason for key, reason in refused.items() if key[0] in doc_ids}
                more, _ = self._apply_newest(
                    [event for event in events if event.doc_id in doc_ids], rest, failing, tried=bases
                )
                refused |= more
        dead = [
            DeadLetter(self._sink.name, envelope, refused[envelope.doc_id, envelope.version])
            for envelope in envelopes
            if (envelope.doc_id, envelope.version) in refused and envelope.doc_id not in failing
        ]
        if failing:
            doc_id, error = next(iter(failing.items()))
            reason = f"{error} ({len(failing)} documents fail, one is {doc_id!r})"
            raise SomeFail(reason, failing, dead) from error
        return dead

    def _apply_newest(
        self,
        events: Sequence[Event],
        refused: Refused,
        failing: dict[str, Retryable],
        *,
        tried: Collection[tuple[str, int]] = (),
    ) -> tuple[Refused, set[tuple[str, int]]]:
        """Returns what the sink refuses, and the versions that were applied because newer ones build on them.

        Adds to `failing`.
        """
        known = self._load_known(events)
        selection = select_changes(events, known, refused, tried)
        self._report_missing(selection)
        changes = self._arrange_removals(selection.changes, known)
        refused = self._apply_and_mark(replace(selection, changes=changes), known, failing)
        return refused, selection.bases

    def _check_store(self) -> None:
        """Stop soon after a collection or bucket vanished, or came back as that of another system."""
        if self._clock() >= self._check_at:
            self._check_at = self._clock() + _CHECK_SECONDS
            try:
                self._sink.ensure()
            except Retryable:  # the store is away: the changes that follow tell
                self._isolation.failing.note_store_away()

    def _report_failing(self) -> None:
        """Name the documents on which the sink keeps failing, in the log and in the database."""
        for one in self._isolation.failing.find_unreported():
            seconds = one.last - one.since
            _log.error(
                "document_still_failing sink=%s doc_id=%s seconds=%.0f reason=%s",
                self.name,
                one.doc_id,
                seconds,
                one.reason,
            )
            with translate_transient(), self._engine.begin() as connection:
                marks.note_failing(connection, self.name, one.doc_id, f"failing for {seconds:.0f} s: {one.reason}")

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
            known = marks.load_known(connection, self._sink.name, doc_ids)
        self._note_database()
        return known

    def _report_missing(self, selection: Selection) -> None:
        for doc_id, version, part in selection.missing_parts:
            _log.warning("part_missing sink=%s doc_id=%s version=%d part=%d", self._sink.name, doc_id, version, part)
        self.counts["part_missing"] += len(selection.missing_parts)

    def _arrange_removals(self, changes: Sequence[Change], known: Mapping[str, Known]) -> list[Change]:
        """Let the last part of a version do the removals of all its parts."""
        arranged = {one.doc_id: one if marks.has_all_parts(one, known) else hold_back(one) for one in changes}
        last = [one for one in changes if marks.has_all_parts(one, known) and needs_earlier_parts(one)]
        if last:
            with reading(self._engine) as connection:
                completed = self._sink_marks.complete_removals(connection, last)
            arranged |= {change.doc_id: change for change in completed}
        return list(arranged.values())

    def _apply_and_mark(
        self, selection: Selection, known: Mapping[str, Known], failing: dict[str, Retryable]
    ) -> Refused:
        """Returns what the sink refuses, once everything that it took is marked. Adds to `failing`."""
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
                applied = self._apply(changes, known)
                refused = rest.refused | self._drop_absent(applied.refused, known)
                held = [change for change in changes if applied.has_taken(change)]
                marking.submit(Part(held, refused, rest.lost, rest.rewritten, applied.lost))
                failing |= {doc_id: error for (doc_id, _), error in applied.failing.items()}
                rest = Part()
            return marking.finish()

    def _apply(self, changes: Sequence[Change], known: Mapping[str, Known]) -> _Applied:
        changes = [change for change in changes if not is_empty(change)]
        applied = _Applied()
        if not changes:
            return applied
        self._written.update({(change.doc_id, change.version): change.events[0].history_id for change in changes})
        outcome = self._isolation.apply(changes)
        applied.failing = outcome.failing
        for (doc_id, version), error in outcome.refused.items():
            if isinstance(error, SourceGone) and version < known[doc_id].version:
                _log.info("source_gone sink=%s doc_id=%s version=%d reason=%s", self.name, doc_id, version, error)
                applied.superseded.add((doc_id, version))
            elif isinstance(error, DocumentLost) and not known[doc_id].is_absent:
                _log.warning("document_lost sink=%s doc_id=%s version=%d reason=%s", self.name, doc_id, version, error)
                applied.lost[doc_id, version] = str(error)
            else:
                applied.refused[doc_id, version] = str(error)
        return applied

    def _drop_absent(self, refused: Refused, known: Mapping[str, Known]) -> Refused:
        """A sink may refuse an event because it lacks the document; the refill does not need the event."""
        absent = {key: reason for key, reason in refused.items() if known[key[0]].is_absent}
        for (doc_id, version), reason in absent.items():
            _log.warning(
                "refused_while_absent sink=%s doc_id=%s version=%d reason=%s", self._sink.name, doc_id, version, reason
            )
        return {key: reason for key, reason in refused.items() if key not in absent}
