"""The documents on which a sink keeps failing while its store answers: found for a person, and never refused for that.

That a store answers does not prove that it takes writes, so none of these becomes a dead letter here (invariant 11):
`consumers.isolation` refuses one only after the sink took other documents. Where nothing else is written, the document
is tried for ever, and its name is what an operator needs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

FAILING_SECONDS = 300.0  # after which a document is reported, and again each time that they have passed
_FORGOTTEN_SECONDS = 300.0  # without an attempt: another consumer owns the document now, or it has ended
SHOWN = 3  # documents of one report: many that fail are a store that fails


@dataclass
class FailingDocument:
    """A document that failed alone; seconds of the clock."""

    doc_id: str
    since: float
    last: float
    reported: float | None = None
    reason: str = ""


class FailingDocuments:
    """Of one sink. `clock` returns seconds. Any thread may call `count`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, FailingDocument] = {}

    def note_failure(self, doc_id: str, reason: object) -> None:
        """Note that the sink failed when it was given this document alone."""
        now = self._clock()
        one = self._found.get(doc_id)
        if one is None or now - one.last >= _FORGOTTEN_SECONDS:
            one = self._found[doc_id] = FailingDocument(doc_id, now, now)
        one.last, one.reason = now, str(reason)

    def note_taken(self, doc_id: str) -> None:
        """Note that the sink took it, or refused it for good."""
        self._found.pop(doc_id, None)

    def note_store_away(self) -> None:
        """The store does not answer: no failure says anything of its document."""
        self._found.clear()

    def count(self) -> int:
        """How many have failed for FAILING_SECONDS."""
        now = self._clock()
        return sum(self._is_failing(one, now) for one in list(self._found.values()))

    def find_unreported(self) -> list[FailingDocument]:
        """The ones to report now, the oldest first, at most SHOWN; they count as reported."""
        now = self._clock()
        self._found = {key: one for key, one in self._found.items() if now - one.last < _FORGOTTEN_SECONDS}
        failing = sorted((one for one in self._found.values() if self._is_failing(one, now)), key=lambda one: one.since)
        due = [one for one in failing[:SHOWN] if one.reported is None or now - one.reported >= FAILING_SECONDS]
        for one in due:
            one.reported = now
        return due

    @staticmethod
    def _is_failing(one: FailingDocument, now: float) -> bool:
        return now - one.last < _FORGOTTEN_SECONDS and one.last - one.since >= FAILING_SECONDS
