"""Rebuild Milvus: a second instance joins, is refilled and compared with MySQL; then the two swap their roles.

The table `sinks` says how far a rebuild is, so the same command continues it after a crash at any step. Searches use
the old instance until the new one holds all that it holds.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from operations import sinks
from operations.instance_model import model_of_settings
from operations.rebuild import models, states, worker
from operations.rebuild.collections import create_collection, serve, wait_for_index
from operations.rebuild.errors import NotPossible, StoresDiffer
from operations.rebuild.fill import Watch, describe, fill
from operations.rebuild.remove import remove
from operations.rebuild.roles import ANY_NUMBER, MOST_BEHIND, change_options, register
from operations.rebuild.states import Progress
from operations.rebuild.swap import are_far_apart, count_behind, swap_roles
from operations.rebuild.verify import compare_collection, repair
from operations.wiring import System
from schema.database.connection import reading
from schema.sinks import MILVUS, RegisteredSink, next_instance, number_of

if TYPE_CHECKING:
    from operations.reconcile.findings import Findings

_REPAIRS = 3  # of what the comparison finds
_EVEN_SECONDS = 10.0  # how long a swap waits until the new instance is not behind the old one in any document
_PAUSE_SECONDS = 0.2
_EVENTS_WAIT = (
    f"events of more than {MOST_BEHIND} documents wait, and the roles are swapped when they are fewer: "
    "do a relay and consumers of milvus run?"
)


@dataclass(frozen=True)
class Rebuilt:
    """`serving` is the instance that searches use now; `old`, which stays up to date, is None if it was removed.

    `prepared` is a new one that waits for the swap. `behind` documents are being refilled in the one that serves.
    `compared` counts keys. `model` is that of the system now, if the rebuild changed it.
    """

    serving: str
    old: str | None
    documents: int
    behind: int
    compared: int
    options: Mapping[str, Any] = field(default_factory=dict)
    prepared: str | None = None
    model: str | None = None


def rebuild(system: System, wanted: Mapping[str, Any], watch: Watch, *, prepare: bool = False) -> Rebuilt:
    """Bring a new collection to the state of MySQL, and let searches use it.

    `wanted` are the options of its sink that change: its `index`, its `model`. With `prepare`, stops before the swap.
    Raises NotPossible, Stalled, StoresDiffer, IndexRefused, AlreadyRunning. Interrupted at any point, it continues when
    it is called again.
    """
    with worker.exclusive(system):
        if (old := _find_half_removed(system)) is not None:
            return _finish(system, *old, wanted)
        serving, other = _find_instances(system)
        if other is not None and other.state == "active":
            return _finish(system, serving, other, wanted)
        if other is None:
            other = _join(system, serving, wanted, watch)
        if (different := _find_different(system, other.name, wanted)) is not None:
            raise NotPossible(
                f"{other.name} is being built with another {different}: continue without that option, or give it up: "
                f"rag-outbox sinks remove {other.name}"
            )
        rebuilt = _fill_and_swap(system, serving.name, other.name, watch, prepare=prepare)
        return _remove_old(system, rebuilt)


def _find_different(system: System, name: str, wanted: Mapping[str, Any]) -> str | None:
    """An option in which this instance differs from what is wanted."""
    options = sinks.read_options(system, name)
    return next((key for key, value in wanted.items() if options.get(key) != value), None)


def roll_back(system: System, watch: Watch) -> Rebuilt:
    """Let searches use the other instance again; it has stayed up to date. Raises NotPossible, StoresDiffer."""
    with worker.exclusive(system):
        serving, other = _find_instances(system)
        if other is None or other.state != "active":
            raise NotPossible("there is no other instance to go back to: rag-outbox sinks list")
        progress = states.read_progress(system.engine, other.name)
        if system.with_milvus(lambda client: serve(system, client, serving.name)):  # an interrupted one is finished
            options = sinks.read_options(system, serving.name)
            model = _find_new_model(system, other.name, serving.name)
            return Rebuilt(serving.name, other.name, progress.total, 0, 0, options, model=model)
        with reading(system.engine) as connection:
            behind = count_behind(connection, serving.name, other.name)
        if behind > MOST_BEHIND:
            reason = worker.explain_stillness(system, other.name)
            raise NotPossible(f"{other.name} is behind: {describe(other.name, progress, reason)}; repeat it later")
        return _fill_and_swap(system, serving.name, other.name, watch)


def _find_instances(system: System) -> tuple[RegisteredSink, RegisteredSink | None]:
    """The instance that serves, and the other one. Raises NotPossible."""
    found = [one for one in sinks.read_all(system) if one.kind == MILVUS]
    [serving] = [one for one in found if one.is_serving]
    others = [one for one in found if not one.is_serving]
    for one in others:
        if one.state == "leaving":
            raise NotPossible(f"{one.name} is being removed: finish it first: rag-outbox sinks remove {one.name}")
    return serving, others[0] if others else None


def _find_half_removed(system: System) -> tuple[RegisteredSink, RegisteredSink] | None:
    """In the embedded profile: the instance that serves, and the older one whose removal was interrupted."""
    found = [one for one in sinks.read_all(system) if one.kind == MILVUS]
    [serving] = [one for one in found if one.is_serving]
    old = [one for one in found if one.state == "leaving" and number_of(one.name) < number_of(serving.name)]
    return (serving, old[0]) if old and worker.is_embedded(system) else None


def _join(system: System, serving: RegisteredSink, wanted: Mapping[str, Any], watch: Watch) -> RegisteredSink:
    before = sinks.read_options(system, serving.name)
    if "model" in wanted:
        models.require_usable(system, wanted["model"], watch)
        if "model" not in before:  # events of both models will come: each instance names its own
            before["model"] = model_of_settings(system.settings)
            change_options(system.engine, serving.name, before)
    options = {**before, **wanted}
    name = next_instance([serving.name])
    joining = RegisteredSink(name, required=False, takes_vectors=True, takes_files=False, state="joining")
    system.with_milvus(lambda client: create_collection(system, client, joining, options))
    worker.prepare_group(system, name)
    register(system.engine, joining, options or None)
    return joining


def _finish(system: System, serving: RegisteredSink, old: RegisteredSink, wanted: Mapping[str, Any]) -> Rebuilt:
    """A rebuild whose roles are swapped: the alias may not be moved yet. Raises NotPossible if nothing is left.

    Also if other options are wanted: that is the next rebuild.
    """
    is_moved = system.with_milvus(lambda client: serve(system, client, serving.name))
    if worker.is_embedded(system) or is_moved:
        total = states.read_progress(system.engine, serving.name).total
        options = sinks.read_options(system, serving.name)
        model = _find_new_model(system, old.name, serving.name)
        rebuilt = _remove_old(system, Rebuilt(serving.name, old.name, total, 0, 0, options, model=model))
        if (different := _find_different(system, serving.name, wanted)) is not None:
            raise NotPossible(
                f"this finished an interrupted rebuild, and {serving.name} has another {different}: "
                "run the command again"
            )
        return rebuilt
    raise NotPossible(
        f"{serving.name} serves, and {old.name} still exists: "
        f"go back to it with rag-outbox rebuild {MILVUS} --rollback, or remove it with "
        f"rag-outbox sinks remove {old.name}, before the next rebuild"
    )


def _remove_old(system: System, rebuilt: Rebuilt) -> Rebuilt:
    """In the embedded profile nothing would keep the old instance up to date."""
    if not worker.is_embedded(system) or rebuilt.old is None:
        return rebuilt
    remove(system, rebuilt.old)
    return replace(rebuilt, old=None)


def _fill_and_swap(system: System, old: str, new: str, watch: Watch, *, prepare: bool = False) -> Rebuilt:
    engine, options = system.engine, sinks.read_options(system, new)
    with worker.refilling(system, new) as work:

        def fill_up(is_blocked: Callable[[], bool] = lambda: False, because: str = "") -> Progress:
            states.add_states(engine, new)
            return fill(
                new,
                lambda: states.read_progress(engine, new),
                lambda _: not states.is_behind(engine, new, old, MOST_BEHIND) and not is_blocked(),
                work,
                lambda: worker.explain_stillness(system, new) or because,
                watch,
            )

        def fill_until_even() -> Progress:
            return fill_up(lambda: are_far_apart(engine, old, new), _EVENTS_WAIT)

        progress = fill_up()
        findings = _verify(system, new, fill_up, watch)
        system.with_milvus(lambda client: wait_for_index(system, client, new))
        compared = findings.compared.total()
        if prepare:
            return Rebuilt(old, None, progress.total, 0, compared, options, prepared=new)
        behind = _swap(system, old, new, fill_until_even)
        system.with_milvus(lambda client: serve(system, client, new))
        watch.show(progress)
    model = _find_new_model(system, old, new)
    return Rebuilt(new, old, progress.total, behind, compared, options, model=model)


def _find_new_model(system: System, old: str, new: str) -> str | None:
    """The model of the system, if this swap changed it."""
    found = sinks.read_model(system.engine, new)
    return found[0] if found != sinks.read_model(system.engine, old) else None


def _verify(system: System, new: str, fill_up: Callable[[], Progress], watch: Watch) -> "Findings":
    """Compare, repair by refill what differs, and compare again. Raises StoresDiffer."""
    for _ in range(_REPAIRS):
        findings = system.with_milvus(lambda client: compare_collection(system, client, new))
        if not findings.total:
            return findings
        if not (refilled := repair(system, new, findings)):
            break
        watch.note(f"{new} differs from MySQL; refilled again: {refilled:,} documents")
        fill_up()
    else:
        findings = system.with_milvus(lambda client: compare_collection(system, client, new))
        if not findings.total:
            return findings
    raise StoresDiffer(
        f"{new} differs from MySQL in {findings.total:,} keys, so searches still use the old instance; "
        f"see them with rag-outbox reconcile --full --sink {new}",
        findings.total,
    )


def _swap(system: System, old: str, new: str, fill_until_even: Callable[[], Progress]) -> int:
    """Swap the roles at a moment at which the new instance lacks nothing, or else as little as possible.

    Raises Stalled.
    """
    pause, deadline = threading.Event(), time.monotonic() + _EVEN_SECONDS
    while True:
        with reading(system.engine) as connection:
            behind = count_behind(connection, old, new)
        if behind == 0 or time.monotonic() >= deadline:
            most = ANY_NUMBER if worker.is_embedded(system) else MOST_BEHIND  # there their events wait for `run`
            lacking = swap_roles(system.engine, old, new, most=most)
            if lacking is not None:
                return lacking
            fill_until_even()
        pause.wait(_PAUSE_SECONDS)
