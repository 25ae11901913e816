"""What an adoption did: its counters, and a line per document that failed or was skipped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from operations.errors import OperationError

_SHOWN = 20


class TooManyFailures(OperationError):
    """Raised when more documents fail than the operator allows: then the cause is probably not in the documents."""


@dataclass
class Adopted:
    """Counters of one run. A dry run counts `valid`, any other `written` and `unchanged`.

    `skipped` were changed since they were adopted.
    """

    written: int = 0  # documents
    unchanged: int = 0
    valid: int = 0
    failed: int = 0
    skipped: int = 0
    chunks: int = 0  # of the documents that were neither failed nor skipped
    vectors: int = 0  # that the old collection gave to these chunks
    files: int = 0  # sent to the system, or found in a dry run
    interrupted: bool = False

    @property
    def documents(self) -> int:
        return self.written + self.unchanged + self.valid + self.failed + self.skipped


@dataclass
class Report:
    """Counts, and writes failures and skipped documents to `lines` when they happen. Raises TooManyFailures."""

    total: Adopted
    max_failures: int
    lines: IO[str] | None = None
    note: Callable[[str], None] = lambda _: None

    def fail(self, doc_id: str, reason: str) -> None:
        self.total.failed += 1
        self._write_line(doc_id, reason)
        if self.total.failed <= _SHOWN:
            self.note(f"failed: {doc_id}: {reason}")
        elif self.total.failed == _SHOWN + 1:
            self.note("more documents failed; --report FILE lists all of them")
        if self.total.failed > self.max_failures:
            raise TooManyFailures(f"stopped: more than {self.max_failures} documents failed (--max-failures)")

    def skip(self, doc_id: str, reason: str) -> None:
        self.total.skipped += 1
        self._write_line(doc_id, reason)

    def _write_line(self, doc_id: str, reason: str) -> None:
        if self.lines is not None:
            self.lines.write(json.dumps({"doc_id": doc_id, "reason": reason}, ensure_ascii=False) + "\n")
            self.lines.flush()
