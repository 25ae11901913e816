"""Mark a batch part by part, in the background: the database marks one part while the sink applies the next.

Invariant 6: a version is marked only if no other consumer marked the document since the batch began. A version that
was applied after a newer one, or that belongs to a lost history, makes the document absent in the sink.
"""

import logging
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from sqlalchemy import Engine

from consumers import completion, marks
from consumers.lost_history import LostEvent, mark_files_lost, mark_lost
from consumers.marks import Known, SinkMarks
from consumers.sink import Change
from schema.database.history import Standing
from schema.events.events import Event
from schema.failures import Retryable

_log = logging.getLogger(__name__)

Refused = dict[tuple[str, int], str]  # (doc_id, version) and the reason
Written = MutableMapping[tuple[str, int], str]  # (doc_id, version) and the history


@dataclass(frozen=True)
class Part:
    """Changes that the sink was given and what it refused; events of a lost history; what earlier attempts wrote.

    `absent`: (doc_id, version) and reason, where the sink lost what the version builds on.
    """

    changes: Sequence[Change] = ()
    refused: Refused = field(default_factory=dict)
    lost: Sequence[Event] = ()
    rewritten: Mapping[tuple[str, int], str] = field(default_factory=dict)
    absent: Mapping[tuple[str, int], str] = field(default_factory=dict)


class Marking:
    """The marks of one batch in one sink; `known` was loaded before the batch was applied.

    What is marked leaves `written`. `counts` is incremented for what is found.
    """

    def __init__(
        self,
        engine: Engine,
        sink: str,
        sink_marks: SinkMarks,
        known: Mapping[str, Known],
        executor: Executor,
        *,
        written: Written,
        counts: Counter[str],
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._sink_marks = sink_marks
        self._known = known
        self._executor = executor
        self._written = written
        self._counts = counts
        self._running: Future[None] | None = None
        self._refused: Refused = {}

    def submit(self, part: Part) -> None:
        """Wait for the previous part's marks, then start to mark this part. Raises the previous part's error."""
        self._wait()
        self._running = self._executor.submit(self._mark, part)

    def finish(self) -> Refused:
        """Wait for the last part's marks. Returns what the sink refuses."""
        self._wait()
        return self._refused

    def _wait(self) -> None:
        if self._running is not None:
            self._running.result()

    def _mark(self, part: Part) -> None:
        """One transaction for one part.

        Of two consumers that applied the same document concurrently, the second to mark detects it: with the newer
        version it applies again, with the older version it makes the document absent.
        """
        marked = {change.doc_id for change in part.changes} | {doc_id for doc_id, _ in part.rewritten}
        touched = marked | {doc_id for doc_id, _ in part.refused} | {event.doc_id for event in part.lost}
        lost = {doc_id: reason for (doc_id, _), reason in part.absent.items()}
        touched |= lost.keys()
        with self._engine.begin() as connection:
            marks.lock_documents(connection, touched)
            now = marks.load_known(connection, self._sink, touched)
            verdict = _judge(part, self._known, now)
            mark_lost(connection, verdict.lost_events, f"{self._sink} received")
            mark_files_lost(connection, verdict.lost_again, f"{self._sink} received")
            marks.mark_absent(connection, self._sink, lost | _explain(verdict))
            behind = [doc_id for doc_id, document in now.items() if document.desired_version < document.version]
            completion.follow_documents(connection, behind)
            counted = [one for one in verdict.newest if one.replace or not now[one.doc_id].is_absent]
            self._sink_marks.mark_applied(connection, counted)
            marks.mark_applied(connection, self._sink, verdict.newest, now)
            marks.count_mark(connection, self._sink, marked)
            marks.mark_refused(connection, self._sink, verdict.refused)
        self._note(part, verdict)

    def _note(self, part: Part, verdict: "_Verdict") -> None:
        """Remember and log what the transaction committed."""
        for doc_id, (version, newer) in verdict.overtaken.items():
            _log.warning("applied_late sink=%s doc_id=%s version=%d newer=%d", self._sink, doc_id, version, newer)
        for (doc_id, version), history_id in verdict.lost.items():
            _log.warning(
                "lost_history sink=%s doc_id=%s version=%d history=%s", self._sink, doc_id, version, history_id
            )
        self._counts["applied_late"] += len(verdict.overtaken)
        self._counts["lost_history"] += len(verdict.lost) + len(verdict.lost_again)
        self._refused |= verdict.refused
        for key in [*((change.doc_id, change.version) for change in part.changes), *part.rewritten, *part.absent]:
            self._written.pop(key, None)


@dataclass
class _Verdict:
    """What a part's transaction marks, decided under the documents' locks."""

    newest: list[Change] = field(default_factory=list)
    refused: Refused = field(default_factory=dict)
    overtaken: dict[str, tuple[int, int]] = field(default_factory=dict)  # the version that was written, and a newer one
    superseded: dict[str, int] = field(default_factory=dict)  # the version that was written
    lost: dict[tuple[str, int], str] = field(default_factory=dict)  # (doc_id, version) and the history
    lost_events: list[LostEvent] = field(default_factory=list)
    lost_again: list[LostEvent] = field(default_factory=list)  # the documents are suspects of these versions or higher

    @property
    def absent(self) -> set[str]:
        return {*self.overtaken, *self.superseded, *(doc_id for doc_id, _ in self.lost)}


def _judge(part: Part, known: Mapping[str, Known], now: Mapping[str, Known]) -> _Verdict:
    """Raises Retryable when another consumer marked a document that this part would move on."""
    verdict = _Verdict()
    _judge_lost(part.lost, now, verdict)
    events = {(change.doc_id, change.version): change.events for change in part.changes}
    written = {key: parts[0].history_id for key, parts in events.items()}
    applied_lost = set()
    for key, history_id in {**part.rewritten, **written}.items():
        doc_id, version = key
        document = now.get(doc_id)
        standing = Standing.LOST if document is None else document.judge(history_id, version)
        if document is None or standing is Standing.LOST:
            verdict.lost[key] = history_id
            verdict.lost_events += [LostEvent.of(event) for event in events.get(key, ())] or [LostEvent(*key)]
            applied_lost.add(key)
        elif document.is_newer_than(version):
            verdict.overtaken[doc_id] = (version, max(document.applied_version, document.parts_version))
        elif standing is Standing.SUPERSEDED:  # it may even be lost: two histories may have begun since it was read
            verdict.superseded[doc_id] = version
    verdict.refused = {
        key: reason
        for key, reason in part.refused.items()
        if key not in applied_lost and not _is_overtaken(key, known, now)
    }
    for change in part.changes:
        doc_id = change.doc_id
        if doc_id in verdict.absent or (doc_id, change.version) in part.refused:
            continue
        document = now[doc_id]
        if change.version > document.applied_version:
            if document.marks != known[doc_id].marks:
                raise Retryable(f"another consumer applied document {doc_id!r} concurrently")
            verdict.newest.append(change)
    return verdict


def _judge_lost(lost: Sequence[Event], now: Mapping[str, Known], verdict: _Verdict) -> None:
    """Raises Retryable when an event is valid now: it was judged by a server that is no longer the primary."""
    for event in lost:
        document = now.get(event.doc_id)
        standing = Standing.LOST if document is None else document.judge(event.history_id, event.version)
        if standing is Standing.VALID:
            raise Retryable(f"the history of document {event.doc_id!r} changed")
        if standing is Standing.SUPERSEDED:
            continue
        if document is not None and event.version <= document.lost_version:
            verdict.lost_again.append(LostEvent.of(event))
            continue
        verdict.lost[event.doc_id, event.version] = event.history_id
        verdict.lost_events.append(LostEvent.of(event))


def _is_overtaken(key: tuple[str, int], known: Mapping[str, Known], now: Mapping[str, Known]) -> bool:
    """Whether another consumer applied this (doc_id, version), or a newer version, since `known` was loaded."""
    doc_id, version = key
    return doc_id in known and doc_id in now and known[doc_id].applied_version < version <= now[doc_id].applied_version


def _explain(verdict: _Verdict) -> dict[str, str]:
    late = {
        doc_id: f"a consumer that had lost its partitions applied version {version} after version {newer}"
        for doc_id, (version, newer) in verdict.overtaken.items()
    }
    return late | {
        doc_id: f"version {version} was applied while a new history wrote the document"
        for doc_id, version in verdict.superseded.items()
    }
