"""Wait until a sink holds every document, or refill it here; say what is missing when nothing moves."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from operations.rebuild.errors import Stalled
from operations.rebuild.states import Progress

_LOOK_SECONDS = 1.0
_STILL_SECONDS = 10.0  # without progress, before it is asked why
_REPEAT_SECONDS = 60.0  # between two notes about the same


@dataclass
class Watch:
    """How a command shows what it does. `note` gets lines, `show` the progress; `give_up_seconds` without progress."""

    note: Callable[[str], None] = lambda _line: None
    show: Callable[[Progress], None] = lambda _progress: None
    give_up_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic


def fill(
    sink: str,
    read: Callable[[], Progress],
    is_done: Callable[[Progress], bool],
    work: Callable[[], int] | None,
    explain: Callable[[], str],
    watch: Watch,
) -> Progress:
    """Return once `is_done`. `work` refills some documents and returns how many; None: other processes do it.

    `explain` says why nothing moves, for instance that no process serves the sink. Raises Stalled.
    """
    pause = threading.Event()
    before: Progress | None = None
    moved_at = watch.clock()
    noted_at = moved_at - _REPEAT_SECONDS
    while True:
        progress = read()
        watch.show(progress)
        if is_done(progress):
            return progress
        now = watch.clock()
        if before is None or (progress.applied, progress.absent) != (before.applied, before.absent):
            before, moved_at = progress, now
        still = now - moved_at
        if still >= _STILL_SECONDS and now - noted_at >= _REPEAT_SECONDS:
            noted_at = now
            watch.note(describe(sink, progress, explain()))
        if watch.give_up_seconds is not None and still >= watch.give_up_seconds:
            raise Stalled(f"gave up after {still:.0f} s: {describe(sink, progress, explain())}")
        if work is None or not work():
            pause.wait(_LOOK_SECONDS)


def describe(sink: str, progress: Progress, reason: str = "") -> str:
    """One line: how far the sink is, why it does not move, and what its refill lacks."""
    parts = [f"{sink} holds {progress.applied:,} of {progress.total:,} documents"]
    if reason:
        parts.append(reason)
    if progress.failed:
        parts.append(f"{progress.failed:,} failed (rag-outbox status shows why)")
    parts += [f"{doc_id!r}: {why}" for doc_id, why in progress.lacking.items()]
    return "; ".join(parts)
