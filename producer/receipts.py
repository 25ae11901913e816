"""Read your own write: a receipt names the written version and can wait until the sinks hold it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Row, and_, select

from producer.connections import sync_engine
from producer.errors import ProducerError
from schema.database.tables import sink_states, sinks
from schema.sinks import kind_of

_POLL_SECONDS = 0.02
_WAIT_SECONDS = 30.0


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

    def wait(
        self, sink: str | None = None, timeout_seconds: float = _WAIT_SECONDS, *, engine: Engine | None = None
    ) -> None:
        """Wait until `sink`, or every required sink, holds this version or a newer one. Call it after the commit.

        Of several instances of Milvus, `milvus` is the one that searches use.

        Raises NotApplied on timeout, ApplyFailed if a sink refused the version, ValueError if there is no such sink.
        It blocks: in an event loop, use `await asyncio.to_thread(receipt.wait)`. It polls through the engine of the
        write; if that one is async, through a sync engine with the same URL. Pass `engine` if the URL alone does not
        connect, for instance because of your `connect_args`.
        """
        if sink is not None and not isinstance(sink, str):
            raise TypeError(f"sink must be a string, is {sink!r}; a timeout goes by name: timeout_seconds={sink!r}")
        statement = _select_states(self.doc_id)
        deadline = time.monotonic() + timeout_seconds
        # AUTOCOMMIT: in REPEATABLE READ all polls of one transaction would see the same rows.
        polled = (engine or sync_engine(self._engine)).execution_options(isolation_level="AUTOCOMMIT")
        with polled.connect() as connection:
            while True:
                behind = self._find_behind(connection.execute(statement).all(), sink)
                if not behind:
                    return
                if time.monotonic() >= deadline:
                    verb = "does" if len(behind) == 1 else "do"
                    raise NotApplied(
                        f"{', '.join(behind)} {verb} not hold document {self.doc_id!r} version {self.version} "
                        f"after {timeout_seconds:g} seconds"
                    )
                time.sleep(_POLL_SECONDS)

    def _find_behind(self, rows: Sequence[Row[Any]], sink: str | None) -> list[str]:
        """The names of the sinks that are waited for and do not hold the version."""
        if sink is None:
            waited = [row for row in rows if row.required]
        else:  # of several instances, the one that searches use
            instances = [row for row in rows if kind_of(row.name) == sink]
            waited = [row for row in instances if row.required] or [row for row in rows if row.name == sink]
            if not waited:
                raise ValueError(f"there is no sink {sink!r}: the sinks are {', '.join(row.name for row in rows)}")
        behind = [row for row in waited if (row.applied_version or 0) < self.version]
        for row in behind:
            if row.state == "failed":
                raise ApplyFailed(f"{row.name} refused document {self.doc_id!r}: {row.last_error}")
        return [row.name for row in behind]


def _select_states(doc_id: str) -> Any:
    """Every sink, and its state of a document if there is one."""
    state = and_(sink_states.c.sink == sinks.c.name, sink_states.c.doc_id == doc_id)
    is_required = and_(sinks.c.required, sinks.c.state == "active")
    columns = (sink_states.c.applied_version, sink_states.c.state, sink_states.c.last_error)
    return (
        select(sinks.c.name, is_required.label("required"), *columns)
        .select_from(sinks.outerjoin(sink_states, state))
        .order_by(sinks.c.name)
    )
