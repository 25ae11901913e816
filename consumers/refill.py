"""Refill: bring a sink to a document's state without an event, from the metadata database and the archive.

A state is absent when nothing that the sink holds of the document counts. The owner of the document's lane, and nobody
else, applies the whole document as a replace and marks it. Invariant 8: the mark counts only if neither the version nor
the history of the document changed, and no other consumer marked it, since the document was read. What was written and
is not marked is remembered: another consumer may have marked the document before.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import takewhile

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, update
from sqlalchemy.exc import DBAPIError

from consumers import completion, marks, whole_document
from consumers.isolation import Isolation
from consumers.marks import Known, SinkMarks
from consumers.read_ahead import map_ahead
from consumers.sink import Change, Sink
from consumers.whole_document import StoredDocument
from schema.database.clock import utc_now
from schema.database.connection import reading, snapshot
from schema.database.history import Identity, read_identity
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import documents, sink_states
from schema.object_store.port import ObjectStore
from schema.retry import translate_transient

_log = logging.getLogger(__name__)

_ROUND_DOCUMENTS = 100
_ROUND_CHUNKS = 5_000
_FIRST_CHUNKS = 500  # of the first round
_ROUND_BYTES = 16 * 1024 * 1024  # a round exceeds these by one document, or by those that are read at the same time
_ROUND_SECONDS = 20.0  # that a round should take: events wait for it
_IDLE_SECONDS = 1.0  # between rounds that find nothing
_OVERTAKEN = "another consumer applied the document during a refill"
_POSTPONED_SECONDS = (5, 3_600)  # the first wait for a document whose vectors or files are missing, and the longest


class Refill:
    """Refills the absent documents of one sink, a bounded round at a time.

    `store` has the archive and the files: `readers` documents are read from it at the same time. `clock` returns
    seconds.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        sink_marks: SinkMarks,
        store: ObjectStore,
        *,
        readers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._sink_marks = sink_marks
        self._store = store
        self._readers = readers
        self._clock = clock
        self._isolation = Isolation(sink, clock=clock)
        self._next_at = 0.0
        self._most_chunks = _FIRST_CHUNKS  # of the next round
        self._written: set[str] = set()  # documents given to the sink and not marked yet

    def is_due(self) -> bool:
        """Whether the next round may start: rounds take at most half of the time."""
        return self._clock() >= self._next_at

    def run_round(self, lanes: Collection[int] | None = None) -> int:
        """Refill documents of `lanes` (None: of all), the oldest first. Returns how many the sink holds now.

        Raises Retryable: nothing is marked that the sink does not hold; call again later.
        """
        began = self._clock()
        try:
            self.mark_written()
            found, refilled = self._run_round(lanes)
        except DBAPIError:
            self._next_at = self._clock() + _IDLE_SECONDS
            with translate_transient():
                raise
        ended = self._clock()
        self._next_at = ended + (ended - began if found else _IDLE_SECONDS)
        if found:
            self._adapt(ended - began)
        return refilled

    def _adapt(self, seconds: float) -> None:
        """Smaller rounds for a slow sink: one that embeds may need a second per chunk."""
        if seconds > _ROUND_SECONDS:
            self._most_chunks = max(1, int(self._most_chunks * _ROUND_SECONDS / seconds))
        elif seconds < _ROUND_SECONDS / 4:
            self._most_chunks = min(2 * self._most_chunks, _ROUND_CHUNKS)

    def _run_round(self, lanes: Collection[int] | None) -> tuple[int, int]:
        with reading(self._engine) as connection:
            identity = read_identity(connection)
            doc_ids = self._find_absent(connection, identity, lanes)
        if not doc_ids:
            return 0, 0
        with snapshot(self._engine) as connection:
            stored = whole_document.load(connection, self._sink.name, doc_ids)
        changes: dict[str, tuple[StoredDocument, Change]] = {}
        size_bytes = 0
        until_full = takewhile(lambda _: size_bytes < _ROUND_BYTES, stored)  # its newest value
        for document, whole in self._read(until_full, identity):
            if whole.change is None:
                self._postpone(document, whole.lacking)
                continue
            changes[document.row.doc_id] = (document, whole.change)
            size_bytes += whole.size_bytes
        changes = self._drop_overtaken(changes)
        self._written = set(changes)
        refused = self._apply([change for _, change in changes.values()])
        for doc_id, reason in refused.items():
            self._postpone(changes.pop(doc_id)[0], reason)
        held = self._mark(list(changes.values()))
        self._written = set(refused)  # the sink may have taken a part of them
        return len(doc_ids), len(held)

    def _read(
        self, stored: Iterable[StoredDocument], identity: Identity
    ) -> Iterator[tuple[StoredDocument, whole_document.Whole]]:
        """The documents with their vectors and files, in order."""
        return map_ahead(
            lambda document: whole_document.build(document, self._sink, self._store, identity),
            stored,
            calls=self._readers,
            weight=_ROUND_CHUNKS,
            weight_of=lambda document: len(document.chunks),
        )

    def _find_absent(self, connection: Connection, identity: Identity, lanes: Collection[int] | None) -> list[str]:
        joined = sink_states.join(documents, documents.c.doc_id == sink_states.c.doc_id)
        absent = and_(
            sink_states.c.sink == self._sink.name,
            sink_states.c.state == "absent",
            sink_states.c.requested_at <= utc_now(),  # not postponed
        )
        statement = select(sink_states.c.doc_id, documents.c.chunk_count).select_from(joined).where(absent)
        if lanes is not None and connection.dialect.name == "mysql":
            statement = statement.where(_is_in_lanes(lanes, identity))
        rows = connection.execute(statement.order_by(sink_states.c.requested_at).limit(_ROUND_DOCUMENTS))
        doc_ids, found_chunks = [], 0
        for row in rows:
            doc_ids.append(row.doc_id)
            found_chunks += row.chunk_count or 0
            if found_chunks >= min(self._most_chunks, _ROUND_CHUNKS):
                break
        return doc_ids

    def _drop_overtaken(
        self, built: Mapping[str, tuple[StoredDocument, Change]]
    ) -> dict[str, tuple[StoredDocument, Change]]:
        """Without the documents that changed while this round read the object store.

        A replace removes what it does not list: newer rows, too, if another consumer has applied them since. One that
        does so after this check is noticed at the mark.
        """
        with reading(self._engine) as connection:
            now = marks.load_known(connection, self._sink.name, built)
        return {doc_id: one for doc_id, one in built.items() if doc_id in now and _is_current(now[doc_id], one[0])}

    def _apply(self, changes: Sequence[Change]) -> dict[str, str]:
        """Apply; returns doc_id and reason of documents that the sink refuses, or fails on while it takes others."""
        if not changes:
            return {}
        self._isolation.begin()
        outcome = self._isolation.apply(changes)
        return {doc_id: str(error) for (doc_id, _), error in (*outcome.refused.items(), *outcome.failing.items())}

    def _mark(self, applied: Sequence[tuple[StoredDocument, Change]]) -> list[Change]:
        """Returns what the sink holds now. The other documents stay absent for the next round."""
        if not applied:
            return []
        name = self._sink.name
        doc_ids = [change.doc_id for _, change in applied]
        held, overtaken = [], {}
        with self._engine.begin() as connection:
            marks.lock_documents(connection, doc_ids)
            now = marks.load_known(connection, name, doc_ids)
            for stored, change in applied:
                document = now.get(change.doc_id)
                if document is not None and document.marks != stored.row.marks:
                    overtaken[change.doc_id] = _OVERTAKEN
                elif document is not None and _is_unchanged(document, stored):
                    held.append(change)
            behind = [doc_id for doc_id, document in now.items() if document.desired_version < document.version]
            completion.follow_documents(connection, behind)
            self._sink_marks.mark_applied(connection, held)
            marks.mark_applied(connection, name, held)
            marks.count_mark(connection, name, doc_ids)
            marks.mark_absent(connection, name, overtaken)
        _log.info("refilled sink=%s documents=%d repeat=%d", name, len(held), len(applied) - len(held))
        return held

    def mark_written(self) -> None:
        """Mark what an earlier round wrote and did not mark; its lanes may belong to another consumer now.

        Raises Retryable.
        """
        if not self._written:
            return
        name = self._sink.name
        with translate_transient(), self._engine.begin() as connection:
            marks.lock_documents(connection, self._written)
            now = marks.load_known(connection, name, self._written)
            overtaken = [doc_id for doc_id, document in now.items() if not document.is_absent]
            marks.count_mark(connection, name, now.keys() - set(overtaken))
            marks.mark_absent(connection, name, dict.fromkeys(overtaken, _OVERTAKEN))
        self._written.clear()

    def _postpone(self, stored: StoredDocument, reason: str) -> None:
        """Keep the reason, and try again later: an event on its way may bring what is missing."""
        row = stored.row
        first, longest = _POSTPONED_SECONDS
        with self._engine.begin() as connection:
            marks.lock_documents(connection, [row.doc_id])
            known = marks.load_known(connection, self._sink.name, [row.doc_id]).get(row.doc_id)
            if known is None or not _is_current(known, stored):
                return  # what it read may be gone because the document changed
            now = connection.execute(select(utc_now())).scalar_one()
            wait = timedelta(seconds=min(first * 2 ** min(row.attempts, 32), longest))
            connection.execute(
                update(sink_states)
                .where(sink_states.c.doc_id == row.doc_id, sink_states.c.sink == self._sink.name)
                .values(last_error=reason, attempts=sink_states.c.attempts + 1, requested_at=now + wait)
            )
        if reason != row.last_error:  # once per document and reason
            _log.warning("refill_lacks sink=%s doc_id=%s reason=%s", self._sink.name, row.doc_id, reason)


def mark_all_absent(engine: Engine, sink: str, reason: str, lanes: Collection[int] | None = None) -> int:
    """Mark every document of a sink absent, or those of `lanes`, in bounded transactions. Returns how many.

    Run it before the store is created again, or the topic is read after a gap: a crash in between leaves marks that
    are true. Raises Retryable.
    """
    with translate_transient():
        return _mark_all_absent(engine, sink, reason, lanes)


def _mark_all_absent(engine: Engine, sink: str, reason: str, lanes: Collection[int] | None) -> int:
    marked, last = 0, ""
    while True:
        with reading(engine) as connection:
            following = select(sink_states.c.doc_id).where(sink_states.c.sink == sink, sink_states.c.doc_id > last)
            if lanes is not None and engine.dialect.name == "mysql":
                following = following.where(_is_in_lanes(lanes, read_identity(connection)))
            found = connection.execute(following.order_by(sink_states.c.doc_id).limit(IDS_PER_STATEMENT)).scalars()
            doc_ids = list(found)
        if not doc_ids:
            return marked
        with engine.begin() as connection:
            marks.lock_documents(connection, doc_ids)
            marks.mark_absent(connection, sink, dict.fromkeys(doc_ids, reason))
        marked, last = marked + len(doc_ids), doc_ids[-1]


def _is_in_lanes(lanes: Collection[int], identity: Identity) -> ColumnElement[bool]:
    return func.mod(func.crc32(sink_states.c.doc_id), identity.lanes).in_(sorted(lanes))


def _is_current(now: Known, stored: StoredDocument) -> bool:
    """Whether neither the document nor what the sink holds of it changed since it was read."""
    return now.marks == stored.row.marks and _is_unchanged(now, stored)


def _is_unchanged(now: Known, stored: StoredDocument) -> bool:
    return now.is_absent and (now.version, now.history_id) == (stored.row.version, stored.row.history_id)
