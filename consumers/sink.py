"""The sink port: what a store must offer so that consumers can keep it up to date."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schema.events.events import DocumentUpserted, Event


@dataclass(frozen=True)
class Change:
    """The parts of one version of a document in one batch, in order; the last part completes the version.

    With `replace`, the events list every chunk and file of the document: the sink removes all others of that doc_id.
    """

    doc_id: str
    version: int
    events: tuple[Event, ...]
    replace: bool = False

    @property
    def chunks(self) -> int:
        """The number of chunks that the change carries with their vectors."""
        return sum(len(event.chunks) for event in self.events if isinstance(event, DocumentUpserted))


class Sink(Protocol):
    """A store. It knows nothing of the metadata database; `SinkMarks` does.

    `takes_vectors` and `takes_files` say what it keeps of an event: the chunks with their vectors, the files.
    """

    name: str
    takes_vectors: bool
    takes_files: bool

    def create(self) -> None:
        """Create what the store needs; harmless when it exists. Only `init`, `rebuild` and `sinks add` call it."""

    def ensure(self) -> None:
        """Check the store; create and load nothing, since an empty store would contradict the marks.

        Called at the start of a process, and every 10 seconds by its health check and while it applies.
        Raises StoreMissing when it is not there, OtherSystem when it is not of this system, Permanent when it does not
        fit.
        """

    def apply(self, changes: Sequence[Change]) -> None:
        """Bring the store to these changes, at most one per document, writing before deleting (invariant 10).

        A change with `replace` is written whole; then every other row or object of its document is removed.
        Returns when the store acknowledged all of them. Raises Retryable or Permanent; any part may then be applied.
        Raises DocumentLost when rows or files that a change builds on are not there: a refill replaces the document.
        Raises StoreMissing when the store is not there.
        Applying a change twice has the same effect as applying it once (invariant 6).
        """

    def close(self) -> None:
        """Release connections and threads."""
