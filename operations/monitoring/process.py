"""The metrics and the HTTP endpoint that every long-running process has."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, disable_created_metrics
from sqlalchemy import text

from operations.monitoring.health import Check, Health
from operations.monitoring.server import serve
from operations.settings import PREFIX, SettingsError
from operations.transient_errors import note_transient_errors
from operations.wiring import System
from schema.database.connection import reading
from schema.metrics import ProcessMetrics

if TYPE_CHECKING:
    from operations.tracing import Tracing


class Process:
    """A process under observation; its own metrics go to `registry`."""

    def __init__(self, system: System, kind: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads
        self.registry = CollectorRegistry()
        self.metrics = ProcessMetrics(self.registry, kind)
        self._system = system
        self._kind = kind
        note_transient_errors(system.engine, lambda code: self.metrics.retries.labels("database", code).inc())

    @contextmanager
    def serve(
        self,
        stores: Mapping[str, Check] | None = None,
        is_member: Callable[[], bool] = lambda: True,
        find_more: Callable[[], Mapping[str, Check]] = dict,
    ) -> Iterator[None]:
        """Serve /metrics, /healthz and /readyz until the context ends.

        `stores` are checks in addition to that of the database; each raises what is wrong. `find_more` returns the
        further checks of this moment.
        """
        settings = self._system.settings
        checks = {"database": self._check_database, **(stores or {})}
        health = Health(self.metrics, checks, is_member, find_more)
        with serve(self.registry, health, settings.metrics_host, settings.metrics_port):
            yield

    def tracing(self) -> "AbstractContextManager[Tracing | None]":
        """Exports spans until the context ends; None unless the settings ask for it."""
        if not self._system.settings.tracing:
            return nullcontext()
        try:
            from operations import tracing
        except ImportError as error:
            hint = "install rag-outbox with its extra otel (docs/monitoring.md, Traces)"
            raise SettingsError(f"{PREFIX}TRACING: {error.name} is missing: {hint}") from error
        return tracing.export_spans(self._kind)

    def _check_database(self) -> None:
        with reading(self._system.engine) as connection:
            connection.execute(text("SELECT 1"))
