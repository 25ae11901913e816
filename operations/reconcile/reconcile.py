"""Runs reconcile on the stores of a system."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from operations import sinks
from operations.reconcile.report import Report
from operations.reconcile.run import Run, Stores
from operations.reconcile.scope import Scope
from operations.wiring import System
from schema.sinks import MILVUS, kind_of


@contextmanager
def open_stores(system: System, scope: Scope) -> Iterator[Stores]:
    """Connect to what the scope compares. Raises OtherSystem if the collection is not of this system."""
    with ExitStack() as stack:
        client = None
        if any(kind_of(name) == MILVUS for name in scope.sinks):
            from consumers.milvus.collection import require_own

            client = stack.enter_context(system.milvus(own=False))
            require_own(client, system.settings.collection_alias, system.identity.system_id, is_alias=True)
        yield Stores(system.engine, system.store, client, system.settings.collection_alias)


def reconcile(
    system: System,
    scope: Scope | None = None,
    *,
    rate: float = 0.0,
    resume: bool = False,
    stop: threading.Event | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Report:
    """Compare the stores; without a `scope`, every key of every sink. Raises Interrupted when `stop` is set.

    With `resume`, the newest run continues if it was interrupted and has this scope.
    """
    chosen = scope or scope_of(system)
    with open_stores(system, chosen) as stores:
        run = Run(stores, chosen, rate=rate, stop=stop, advance=advance)
        if resume:
            run.resume()
        return run.run()


def scope_of(system: System, wanted: list[str] | None = None, **options: object) -> Scope:
    """The scope of these sinks. Without them: all sinks, but only the instance of Milvus that searches use.

    Without an instance of this name, `milvus` is the one that searches use, too. Raises UnknownSink.
    """
    found = [one for one in sinks.read_all(system) if one.state != "leaving"]
    in_use = sinks.names_in_use(found)
    names = {one.name for one in found}
    serving = next((name for name in in_use if kind_of(name) == MILVUS), MILVUS)
    chosen = [serving if name == MILVUS and name not in names else name for name in wanted or []]
    for name in chosen:
        sinks.require_registered(found, name)
    return Scope(tuple(chosen or in_use), **options)  # type: ignore[arg-type]
