"""Read your own write: a receipt names the written version and can wait until a sink holds it."""

import time
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from producer.errors import ProducerError
from schema.database.connection import reading
from schema.database.tables import sink_states

_POLL_SECONDS = 0.02


class NotApplied(ProducerError):
    """Raised when a sink does not hold the version within the timeout. Wait again, or answer "processing"."""


class ApplyFailed(ProducerError):
    """Raised when a sink refused the version permanently. Correct what the message names, and write again."""


@dataclass(frozen=True)
class Receipt:
    """The version of a document after a write; `changed` is False if it had this state and nothing was written."""

    doc_id: str
    version: int
    changed: bool
    _engine: Engine = field(repr=False, compare=False)

    def wait(self, sink: str, timeout_seconds: float) -> None:
        """Wait until `sink` holds this version or a newer one. Call it after the transaction committed.

        Raises NotApplied on timeout, ApplyFailed if the sink refused the version.
        """
        statement = select(sink_states.c.applied_version, sink_states.c.state, sink_states.c.last_error).where(
            sink_states.c.doc_id == self.doc_id, sink_states.c.sink == sink
        )
        deadline = time.monotonic() + timeout_seconds
        with reading(self._engine) as connection:
            while True:
                row = connection.execute(statement).one_or_none()
                if row is not None and row.applied_version >= self.version:
                    return
                if row is not None and row.state == "failed":
                    raise ApplyFailed(f"{sink} refused document {self.doc_id!r}: {row.last_error}")
                if time.monotonic() >= deadline:
                    raise NotApplied(
                        f"{sink} does not hold document {self.doc_id!r} version {self.version} "
                        f"after {timeout_seconds:g} seconds"
                    )
                time.sleep(_POLL_SECONDS)
