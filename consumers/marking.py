"""Mark a batch part by part, in the background: the database marks one part while the sink applies the next.

Invariant 6: a version is marked only if no other consumer marked the document since the batch began.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future

from sqlalchemy import Engine

from consumers import marks
from consumers.marks import Known, SinkMarks
from consumers.sink import Change
from schema.failures import Retryable

_log = logging.getLogger(__name__)

Refused = dict[tuple[str, int], str]  # (doc_id, version) and the reason


class Marking:
    """The marks of one batch in one sink; `known` was loaded before the batch was applied."""

    def __init__(
        self, engine: Engine, sink: str, sink_marks: SinkMarks, known: Mapping[str, Known], executor: Executor
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._sink_marks = sink_marks
        self._known = known
        self._executor = executor
        self._running: Future[None] | None = None
        self._held = {doc_id: document.applied_version for doc_id, document in known.items()}
        self._refused: Refused = {}

    def submit(self, changes: Sequence[Change], refused: Refused) -> None:
        """Wait for the previous part's marks, then start to mark this part. Raises the previous part's error."""
        self._wait()
        self._running = self._executor.submit(self._mark, changes, refused)

    def finish(self) -> tuple[dict[str, int], Refused]:
        """Wait for the last part's marks. Returns the version that the sink holds per document, and what it refuses."""
        self._wait()
        return self._held, self._refused

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()

    def _mark(self, part: Sequence[Change], refused: Refused) -> None:
        """One transaction for one part.

        Of two consumers that applied the same document concurrently, the second to mark detects it: with the newer
        version it applies again, with the older version it marks the damage that it did.
        """
        changes = [change for change in part if (change.doc_id, change.version) not in refused]
        doc_ids = {change.doc_id for change in changes}
        touched = doc_ids | {doc_id for doc_id, _ in refused}
        with self._engine.begin() as connection:
            marks.lock_documents(connection, touched)
            now = marks.load_known(connection, self._sink, touched)
            refused = {key: reason for key, reason in refused.items() if not _is_overtaken(key, self._known, now)}
            late = [change for change in changes if change.version < now[change.doc_id].applied_version]
            newest = [change for change in changes if change.version > now[change.doc_id].applied_version]
            for change in newest:
                if now[change.doc_id].marks != self._known[change.doc_id].marks:
                    raise Retryable(f"another consumer applied document {change.doc_id!r} concurrently")
            damage = {change.doc_id: self._sink_marks.mark_damage(connection, change) for change in late}
            marks.mark_damaged(connection, self._sink, {doc_id: why for doc_id, why in damage.items() if why})
            self._sink_marks.mark_applied(connection, newest)
            marks.mark_applied(connection, self._sink, newest)
            marks.count_mark(connection, self._sink, doc_ids)
            marks.mark_refused(connection, self._sink, refused)
        for change in late:
            _log.warning(
                "applied_late sink=%s doc_id=%s version=%d newer=%d damage=%s",
                *(self._sink, change.doc_id, change.version, now[change.doc_id].applied_version),
                damage[change.doc_id],
            )
        self._held |= {doc_id: document.applied_version for doc_id, document in now.items()}
        self._held |= {change.doc_id: change.version for change in newest if change.complete}
        self._refused |= refused


def _is_overtaken(key: tuple[str, int], known: Mapping[str, Known], now: Mapping[str, Known]) -> bool:
    """Whether another consumer applied this (doc_id, version), or a newer version, since `known` was loaded."""
    doc_id, version = key
    return doc_id in known and doc_id in now and known[doc_id].applied_version < version <= now[doc_id].applied_version
