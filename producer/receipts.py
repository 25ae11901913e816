"""Read your own write: a receipt of a written version that can wait until a sink holds it."""

import time
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from producer.errors import ProducerError
from schema.database.connection import reading
from schema.database.tables import sink_states

_POLL_SECONDS = 0.02


class NotApplied(ProducerError):
    """Raised when a sink does not hold the version within the time given."""


class ApplyFailed(ProducerError):
    """Raised when a sink refused the version for good; the message gives its reason."""


@dataclass(frozen=True)
class Receipt:
    """`changed` is False when the document already had this state: nothing was written, `version` is the present."""

    doc_id: str
    version: int
    changed: bool
    _engine: Engine = field(repr=False, compare=False)

    def wait(self, sink: str, timeout_seconds: float) -> None:
        """Return once `sink` holds this version or a newer one. Call it after the transaction committed.

        Raises NotApplied when the time is over, ApplyFailed when the sink refused it.
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
