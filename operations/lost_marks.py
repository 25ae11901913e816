"""Lost marks: a failover may keep an event's settled outbox row, and lose the mark of a sink that consumed the event.

The sink's group has committed the event's offset, so the event never comes again, and the document would stay pending.
A consumer marks before it commits the offset: the mark of an event below the committed offset was made, or is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from consumers import completion, marks
from consumers.marks import Known
from operations.topic import ReadEvent, TopicReader
from schema.database.connection import reading
from schema.database.history import Standing, read_identity
from schema.retry import call_with_retry

_PATIENCE_SECONDS = 60.0  # for a transaction of the metadata database


@dataclass(frozen=True)
class LostMarks:
    """`committed`: per sink and partition, the offset up to which its group had consumed before any mark is read."""

    engine: Engine
    committed: Mapping[str, Mapping[int, int]]

    @classmethod
    def load(cls, engine: Engine, reader: TopicReader) -> "LostMarks":
        """Raises Retryable."""
        with reading(engine) as connection:
            sinks = [sink.name for sink in read_identity(connection).sinks if sink.state != "leaving"]
        return cls(engine, {sink: reader.read_committed(sink) for sink in sinks})

    def mark_absent(self, events: Sequence[ReadEvent]) -> set[str]:
        """Make the documents of consumed events without a mark absent in their sinks. Returns their ids."""
        marked: set[str] = set()
        for sink, offsets in self.committed.items():
            consumed = [event for event in events if event.offset < offsets.get(event.partition, 0)]
            with reading(self.engine) as connection:
                found = _find_unmarked(connection, sink, consumed)
            if found:
                marked |= call_with_retry(lambda: self._mark(sink, found), seconds=_PATIENCE_SECONDS)  # noqa: B023
        return marked

    def _mark(self, sink: str, events: Sequence[ReadEvent]) -> set[str]:
        doc_ids = {event.doc_id for event in events}
        with self.engine.begin() as connection:
            marks.lock_documents(connection, doc_ids)
            unmarked = _find_unmarked(connection, sink, events)
            reasons = {one.doc_id: f"the mark of version {one.version} was lost" for one in unmarked}
            completion.follow_documents(connection, reasons)
            marks.mark_absent(connection, sink, reasons)
        return set(reasons)


def _find_unmarked(connection: Connection, sink: str, events: Sequence[ReadEvent]) -> list[ReadEvent]:
    known = marks.load_known(connection, sink, {event.doc_id for event in events})
    return [event for event in events if event.doc_id in known and _is_unmarked(event, known[event.doc_id])]


def _is_unmarked(event: ReadEvent, document: Known) -> bool:
    """Whether the event is newer than what the marks show; one that the sink refused, or will refill, needs no mark.

    An older version than the document's counts too: a relabel that is still to come may build on it.
    """
    if document.is_absent or document.refused_version:
        return False
    if document.judge(event.history_id, event.version) is not Standing.VALID:
        return False
    if document.parts_version == event.version > document.applied_version:
        return event.part > document.parts_applied
    return event.version > max(document.applied_version, document.parts_version)
