"""The Milvus sink, opened again after a failure.

A Milvus Lite that failed to write, for instance on a full disk, goes on without what it could not write down: it
acknowledges later rows that a restart loses, and forgets rows that it acknowledged before (seen with 3.2.2). What its
log holds is sound. So after a failure it is killed, and started again from its log (invariant 8). One that died is
started again as well.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from pymilvus.exceptions import MilvusException
from sqlalchemy import Connection

from consumers.milvus.errors import translated
from consumers.milvus.sink import MilvusSink
from consumers.sink import Change
from operations.milvus_lite.process import MilvusLiteUnavailable
from operations.wiring import System
from schema.events.events import Event
from schema.failures import Retryable
from schema.sinks import MILVUS


class MilvusAgain:
    """A sink; a Milvus Lite lives as long as it."""

    name = MILVUS

    def __init__(self, system: System) -> None:
        self._system = system
        self._opened = ExitStack()
        self._sink: MilvusSink | None = None

    def ensure(self) -> None:
        self._open()

    def apply(self, changes: Sequence[Change]) -> None:
        try:
            self._open().apply(changes)
        except MilvusLiteUnavailable as error:
            raise Retryable(str(error)) from error
        except Retryable as error:
            self._leave(error)
            raise

    def mark(self, connection: Connection, changes: Sequence[Change]) -> None:
        MilvusSink.mark(connection, changes)

    def harm(self, connection: Connection, change: Change) -> str | None:
        return MilvusSink.harm(connection, change)

    def settle(self, events: Sequence[Event]) -> None:
        """See MilvusSink."""

    def close(self) -> None:
        self._sink = None
        self._opened.close()

    def _open(self) -> MilvusSink:
        if self._sink is None:
            with ExitStack() as opening:
                try:
                    client = opening.enter_context(self._system.milvus(own=True))
                except MilvusException as error:
                    raise translated(error) from error
                sink = MilvusSink(client, self._system.settings.vector_dimension)
                sink.ensure()
                self._opened = opening.pop_all()
            self._sink = sink
        return self._sink

    def _leave(self, error: Retryable) -> None:
        self._sink = None
        self._opened.__exit__(type(error), error, error.__traceback__)
