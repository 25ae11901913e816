"""The histories of a system: list them, start one, and search the topic for what a lost history left behind.

Consumers recognise an event of a lost history when it comes. One that they applied before the failover does not come
again: the check finds it. Nor does one whose mark was lost (`operations/lost_marks.py`). The check runs by itself after
each new history, in the relay that owns lane 0.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select

from consumers import marks
from consumers.lost_history import LostEvent, mark_files_lost, mark_lost
from consumers.marks import Known
from operations.lost_marks import LostMarks
from operations.topic import ReadEvent, TopicReader
from schema.database import history
from schema.database.clock import utc_now
from schema.database.connection import reading
from schema.database.history import Standing
from schema.database.tables import histories
from schema.kafka.clients import session_seconds
from schema.kafka.names import Names
from schema.retry import call_with_retry

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database
_REASON_CHARACTERS = 64  # of the column

IsStopped = Callable[[], bool]


@dataclass(frozen=True)
class Report:
    """What a check found; `is_complete` is False when it was stopped before the end of the topic.

    A sink consumed an event of each document in `unmarked`, and the database lost its mark.
    """

    events: int = 0
    unreadable: int = 0
    lost_events: int = 0
    documents: frozenset[str] = frozenset()  # that are suspects now
    unmarked: frozenset[str] = frozenset()
    is_complete: bool = True


def list_histories(engine: Engine) -> Sequence[Row[Any]]:
    """The rows of `histories`, the oldest first."""
    with reading(engine) as connection:
        return connection.execute(select(histories).order_by(histories.c.number)).all()


def start(engine: Engine, reason: str) -> str:
    """Start a new history, whatever the server. Returns its id."""
    with engine.begin() as connection:
        history.start_history(
            connection, reason[:_REASON_CHARACTERS], instead_of=history.read_identity(connection).history_id
        )
        return history.read_identity(connection).history_id


def check_if_due(engine: Engine, names: Names, kafka: Mapping[str, Any], is_stopped: IsStopped) -> Report | None:
    """Check when a history began since the last check. Returns None when none did, or the last one only just now.

    Starts the history of another server: a failback to the old one, before any write, would leave no trace.
    A consumer commits the offsets of marks from before a failover within its session, or not at all.
    """
    with reading(engine) as connection:
        is_elsewhere = history.is_of_another_server(connection)
    if is_elsewhere:
        with engine.begin() as connection:
            history.lock_identity(connection)
    with reading(engine) as connection:
        unchecked = history.find_unchecked(connection)
        if unchecked is None or _seconds_since_start(connection) < session_seconds(kafka):
            return None
    _log.info("history_check_started history=%s", unchecked)
    report = check(engine, TopicReader(names, kafka), is_stopped=is_stopped)
    _log.info(
        "history_check_ended complete=%s events=%d lost=%d documents=%d unmarked=%d",
        report.is_complete,
        report.events,
        report.lost_events,
        len(report.documents),
        len(report.unmarked),
    )
    return report


def check(
    engine: Engine,
    reader: TopicReader,
    *,
    since: datetime | None = None,
    starts: Mapping[int, int] | None = None,
    is_stopped: IsStopped = lambda: False,
    advance: Callable[[int], None] = lambda _: None,
) -> Report:
    """Read the topic up to its end as of now, for what sinks hold of lost histories and for marks that were lost.

    The documents of lost events become suspects; those that a sink consumed without a mark become absent in that sink.
    Without `since` (UTC), from its start, or from the offsets `starts`, before which there is nothing to find; the
    histories are then noted as checked. `advance` is called with numbers of events. Raises Retryable: nothing is noted,
    what was found stays found.
    """
    with reading(engine) as connection:
        histories_then = _Histories.load(connection)
    lost_marks = LostMarks.load(engine, reader)
    read = unreadable = lost_events = 0
    documents: set[str] = set()
    unmarked: set[str] = set()
    for events in reader.read(since, is_stopped, starts):
        readable = [event for event in events if event.version]
        found = _suspect(engine, histories_then, readable)
        read += len(events)
        unreadable += len(events) - len(readable)
        lost_events += len(found)
        documents.update(event.doc_id for event in found)
        unmarked |= lost_marks.mark_absent(readable)
        advance(len(events))
    report = Report(read, unreadable, lost_events, frozenset(documents), frozenset(unmarked), reader.is_at_end)
    if report.is_complete and since is None:
        with engine.begin() as connection:
            history.note_checked(connection, histories_then.current)
    return report


@dataclass(frozen=True)
class _Histories:
    """The histories when a check begins: their numbers, and those that no check has ended for."""

    current: str
    numbers: Mapping[str, int]
    unchecked: frozenset[int]

    @classmethod
    def load(cls, connection: Connection) -> "_Histories":
        current = history.read_identity(connection).history_id
        rows = connection.execute(select(histories.c.number, histories.c.history_id, histories.c.checked_at)).all()
        return cls(
            current,
            {row.history_id: row.number for row in rows},
            frozenset(row.number for row in rows if row.checked_at is None),
        )

    def find_lost(self, events: Sequence[ReadEvent], known: Mapping[str, Known]) -> list[tuple[ReadEvent, bool]]:
        """Lost events, and whether each is newer than what its document is a suspect of."""
        found = ((event, known.get(event.doc_id)) for event in events)
        return [
            (event, document is None or event.version > document.lost_version)
            for event, document in found
            if self._is_lost(event, document)
        ]

    def _is_lost(self, event: ReadEvent, document: Known | None) -> bool:
        """Whether a sink may hold this event although its history lost it.

        An event from before the document's history may have been lost when a history in between began: that is known
        only if that one was checked.
        """
        if document is None:
            return True
        standing = document.judge(event.history_id, event.version)
        if standing is not Standing.SUPERSEDED:
            return standing is Standing.LOST
        began, now = self.numbers.get(event.history_id), self.numbers.get(document.history_id)
        return began is None or now is None or any(began < number < now for number in self.unchecked)


def _suspect(engine: Engine, then: _Histories, events: Sequence[ReadEvent]) -> list[ReadEvent]:
    """Suspect the documents of lost events, and remove the files that these carried. Returns the events that are new.

    An event is not new if its document is a suspect of this version, or of a higher one.
    """
    with reading(engine) as connection:
        suspected = then.find_lost(events, _load(connection, events))
    if not any(is_new or event.files for event, is_new in suspected):
        return []

    def mark() -> list[ReadEvent]:
        with engine.begin() as connection:
            marks.lock_documents(connection, {event.doc_id for event, _ in suspected})
            now = _load(connection, [event for event, _ in suspected])
            lost = then.find_lost([event for event, _ in suspected], now)
            new, again = (
                [LostEvent(one.doc_id, one.version, one.files) for one, is_new in lost if is_new is wanted]
                for wanted in (True, False)
            )
            mark_lost(connection, new, "the topic has")
            mark_files_lost(connection, again, "the topic has")
        return [event for event, is_new in lost if is_new]

    return call_with_retry(mark, seconds=_PATIENCE_SECONDS)


def _seconds_since_start(connection: Connection) -> float:
    """The age of the newest history."""
    started_at = connection.execute(select(func.max(histories.c.started_at))).scalar_one()
    age: timedelta = connection.execute(select(utc_now())).scalar_one() - started_at
    return age.total_seconds()


def _load(connection: Connection, events: Sequence[ReadEvent]) -> dict[str, Known]:
    return marks.load_known(connection, "", {event.doc_id for event in events})  # of no sink
