"""The loops of one consumer process: one per instance of its kind, as the table `sinks` says now.

A rebuild adds an instance, and every consumer of the kind begins to serve it; an instance that leaves is no longer
served. An error that ends one loop ends the process, unless its sink is leaving.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from operations import sinks
from operations.monitoring.health import Check
from operations.profiles.sink_loop import Shared, SinkLoop
from operations.wiring import System
from schema.threads import start_in_thread

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0  # between two looks at the table `sinks`
_WAIT_SECONDS = 0.2  # until a loop that ended is noticed


@dataclass
class _Running:
    loop: SinkLoop
    ended: "Future[None]"


class _Look:
    """Reads the names of the sinks from time to time, in the background: a silent database must not delay the process.

    While the database is away, nothing is read, and the loops stay as they are.
    """

    def __init__(self, system: System, kind: str) -> None:
        self._system = system
        self._kind = kind
        self._found: list[str] | None = None
        self._reading: Future[None] | None = None
        self._next_at = 0.0

    def read(self) -> list[str] | None:
        """The names, once per look; None between two looks."""
        if self._reading is None:
            if time.monotonic() >= self._next_at:
                self._found = None
                self._reading = start_in_thread(self._read, "look-at-sinks")
            return None
        if not self._reading.done():
            return None
        self._reading.result()
        self._reading, self._next_at = None, time.monotonic() + _LOOK_SECONDS
        return self._found

    def _read(self) -> None:
        with suppress(DBAPIError):
            self._found = sinks.names_of_kind(self._system, self._kind)


class SinkLoops:
    """The loops of the sinks of `kind`."""

    def __init__(self, shared: Shared, kind: str) -> None:
        self._shared = shared
        self._kind = kind
        self._running: dict[str, _Running] = {}
        self._gone_round: set[str] = set()
        self._lock = threading.Lock()

    def find_checks(self) -> dict[str, Check]:
        """A check per store that is served now."""
        return {name: one.loop.check for name, one in list(self._running.items()) if one.loop.check is not None}

    @property
    def is_member(self) -> bool:
        """Whether every loop is a member of its group."""
        return all(one.loop.is_member for one in list(self._running.values()))

    def open_first(self, stop: threading.Event) -> list[SinkLoop]:
        """Open the sinks that there are. Raises UnknownSink if there is none."""
        found = sinks.names_of_kind(self._shared.system, self._kind)
        if not found:
            raise _unknown(self._shared.system, self._kind)
        loops = []
        for name in found:
            loop = self._new_loop(name)
            loop.open(stop)
            loops.append(loop)
        return loops

    def run(self, first: list[SinkLoop], stop: threading.Event) -> None:
        """Run the loops until `stop` is set; then each finishes its batch and leaves its group.

        Raises the error of a loop that failed, and UnknownSink when the last sink of the kind was removed.
        """
        for loop in first:
            self._start(loop, loop.run)
        look = _Look(self._shared.system, self._kind)
        try:
            while not stop.wait(_WAIT_SECONDS):
                self._notice_ends()
                wanted = look.read()
                if wanted is not None:
                    self._follow(wanted)
        finally:
            self._end_all()

    def _new_loop(self, name: str) -> SinkLoop:
        return SinkLoop(self._shared, name, lambda: self._note_progress(name))

    def _start(self, loop: SinkLoop, run: Callable[[], None]) -> None:
        self._running[loop.name] = _Running(loop, start_in_thread(run, f"consume-{loop.name}"))

    def _note_progress(self, name: str) -> None:
        """The process makes progress when every loop does."""
        with self._lock:
            self._gone_round.add(name)
            if self._gone_round >= self._running.keys():
                self._gone_round.clear()
                self._shared.process.metrics.note_progress()

    def _follow(self, wanted: Sequence[str]) -> None:
        """Start and stop loops as the table says."""
        for name in wanted:
            if name not in self._running:
                _log.info("sink_joined sink=%s", name)
                loop = self._new_loop(name)
                self._start(loop, lambda loop=loop: self._open_and_run(loop))  # type: ignore[misc]
        for name, one in self._running.items():
            if name not in wanted and not one.loop.stop.is_set():
                _log.info("sink_left sink=%s", name)
                one.loop.stop.set()
        if not wanted and not self._running:
            raise _unknown(self._shared.system, self._kind)

    def _open_and_run(self, loop: SinkLoop) -> None:
        loop.open(loop.stop)
        if not loop.stop.is_set():
            loop.run()

    def _notice_ends(self) -> None:
        """Forget loops that ended because their sink is leaving. Raises the error of another one."""
        for name, one in list(self._running.items()):
            if not one.ended.done():
                continue
            del self._running[name]
            with self._lock:
                self._gone_round.discard(name)
            one.loop.close()
            error = one.ended.exception()
            if error is not None and not self._is_leaving(name):
                raise error

    def _is_leaving(self, name: str) -> bool:
        try:
            return name not in sinks.names_of_kind(self._shared.system, self._kind)
        except DBAPIError:
            return False

    def _end_all(self) -> None:
        for one in self._running.values():
            one.loop.stop.set()
        errors = []
        for one in self._running.values():
            with suppress(BaseException):
                if (error := one.ended.exception()) is not None:
                    errors.append(error)
            one.loop.close()
        self._running.clear()
        if errors:
            raise errors[0]


def _unknown(system: System, kind: str) -> sinks.UnknownSink:
    found = sinks.read_all(system)
    named = next((one for one in found if one.name == kind), None)
    if named is not None and named.kind != kind:
        return sinks.UnknownSink(f"{kind} is an instance of {named.kind}: rag-outbox consume {named.kind} serves it")
    known = dict.fromkeys(one.kind for one in found if one.state != "leaving")
    return sinks.UnknownSink(f"there is no sink {kind!r} in the table sinks; there are: {', '.join(known)}")
