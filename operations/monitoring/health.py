"""Whether a process is alive, and whether it is ready: can reach its stores, belongs to its group, makes progress."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from schema.metrics import ProcessMetrics
from schema.threads import start_in_thread

LIVE_SECONDS = 300.0  # an attempt that takes longer hangs: restart the process
READY_SECONDS = 60.0
CHECK_SECONDS = 10.0  # between two checks
ANSWER_SECONDS = 5.0  # a check that takes longer has failed; it is not started again before it ends

Check = Callable[[], None]  # raises what is wrong


@dataclass
class _Watched:
    check: Check
    running: Future[None] | None = None
    problem: str | None = "not checked yet"


@dataclass(frozen=True)
class Report:
    """`problems` is empty for a ready process."""

    seconds_since_progress: float
    problems: Mapping[str, str] = field(default_factory=dict)


class Health:
    """Runs the checks of the stores in the background, so that an answer never waits for a store."""

    def __init__(
        self,
        metrics: ProcessMetrics,
        stores: Mapping[str, Check],
        is_member: Callable[[], bool],
        find_more: Callable[[], Mapping[str, Check]] = dict,
    ) -> None:
        self._metrics = metrics
        self._checks = dict(stores)
        self._find_more = find_more
        self._stores: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._follow()
        self._is_member = is_member
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_live(self) -> bool:
        return self._metrics.seconds_since_progress < LIVE_SECONDS

    def report(self) -> Report:
        self._follow()
        problems = {name: one.problem for name, one in list(self._stores.items()) if one.problem is not None}
        if not self._is_member():
            problems["group"] = "not a member"
        seconds = self._metrics.seconds_since_progress
        if seconds >= READY_SECONDS:
            problems["progress"] = f"none for {seconds:.0f} s"
        return Report(round(seconds, 3), problems)

    def _follow(self) -> None:
        """Watch the stores that there are now."""
        checks = {**self._checks, **self._find_more()}
        with self._lock:
            for name, check in checks.items():
                if name not in self._stores or self._stores[name].check is not check:
                    self._stores[name] = _Watched(check)
            for name in self._stores.keys() - checks.keys():
                del self._stores[name]
                with suppress(KeyError):
                    self._metrics.dependency_up.remove(name)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._follow()
            for name, watched in list(self._stores.items()):
                watched.problem = _run(watched)
                self._metrics.dependency_up.labels(name).set(watched.problem is None)
            self._stop.wait(CHECK_SECONDS)


def _run(watched: _Watched) -> str | None:
    """Run the check, or go on waiting for one that hangs. Returns what is wrong."""
    if watched.running is None:
        watched.running = start_in_thread(watched.check, "check")
    try:
        watched.running.result(ANSWER_SECONDS)
    except TimeoutError:
        if not watched.running.done():
            return f"no answer within {ANSWER_SECONDS:.0f} s"
        problem: str | None = "its own time limit is over"
    except Exception as error:  # noqa: BLE001  # any error of a store makes the process unready
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    else:
        problem = None
    watched.running = None
    return problem
