"""Runs the tasks of many processes one after another, in an order that a seed decides; time is virtual.

A task is a greenlet: it stops at every call of a port (`point`), and the scheduler chooses which task goes on. So loops
written for threads interleave without threads, and a seed gives the same run again.
"""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, Future
from functools import partial
from random import Random
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent, greenlet

P = ParamSpec("P")
T = TypeVar("T")
NewError = Callable[[], Exception]

STEP_SECONDS = 0.002  # that a step takes
_FOREVER = float("inf")


class Killed(BaseException):
    """Raised in the tasks of a process that dies; nothing that they call has an effect any more."""


class Process:
    """A group of tasks that die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.paused_until = 0.0
        self.silent_until = 0.0  # for this process the database gives no answer


class Task:
    """`label` names the call at which it stands; `error` is what that call may raise."""

    def __init__(self, process: Process, run: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.label = "start"
        self.error: NewError | None = None
        self.raised: Exception | None = None  # by the call at which it stands
        self.wake_at = 0.0
        self.is_ready: Callable[[], bool] | None = None
        self.greenlet = greenlet(run, hub)

    def may_run(self, now: float) -> bool:
        if self.process.paused_until > now:
            return False
        return self.wake_at <= now or (self.is_ready is not None and self.is_ready())

    def next_at(self) -> float:
        return max(self.wake_at, self.process.paused_until)


class Scheduler:
    """`now` is the virtual time in seconds. `on_point` is called with a task that has stopped at a call."""

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.steps = 0
        self.trace: deque[str] = deque(maxlen=60)
        self.current: Task | None = None
        self.on_point: Callable[[Task], None] = lambda _task: None
        self.failure: BaseException | None = None
        self._random = random
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()

    def clock(self) -> float:
        return self.now

    def spawn(self, process: Process, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001  # ends the simulation
                self.failure = self.failure or error

        self._tasks.append(Task(process, run, self._hub))

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call between two steps, when this time has passed."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._timer_numbers), call))

    def step(self) -> None:
        """Let one task run up to its next call."""
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()
        ready = [task for task in self._tasks if task.may_run(self.now)]
        if not ready:
            times = [task.next_at() for task in self._tasks] + [at for at, _, _ in self._timers[:1]]
            self.now = max(self.now, min(times))
            return
        task = ready[int(self._random.random() * len(ready))]
        self.steps += 1
        self.now += STEP_SECONDS
        task.is_ready = None
        self._switch(task, task.greenlet.switch)
        if task.greenlet.dead:
            self._tasks.remove(task)
        else:
            self.on_point(task)

    def kill(self, process: Process) -> None:
        """The process dies where its tasks stand."""
        process.is_dead = True
        for task in [task for task in self._tasks if task.process is process]:
            self._tasks.remove(task)
            if task.greenlet:  # it has started
                self._switch(task, partial(task.greenlet.throw, Killed))

    def close(self) -> None:
        for process in dict.fromkeys(task.process for task in self._tasks):
            self.kill(process)

    def point(self, label: str, error: NewError | None = None) -> None:
        """A task stops here; it goes on later, or gets `error`, or its process dies."""
        task = self.current
        if task is not None:
            task.wake_at = self.now
            self._stop(task, label, error)

    def sleep(self, seconds: float) -> None:
        self.wait_until(lambda: False, seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Stop until the condition holds, for at most this time. Returns whether it holds."""
        task = self.current
        if task is None or condition():
            return condition()
        task.wake_at = _FOREVER if seconds is None else self.now + seconds
        task.is_ready = condition
        self._stop(task, "wait", None)
        return condition()

    def processes(self) -> Collection[Process]:
        return dict.fromkeys(task.process for task in self._tasks)

    def _stop(self, task: Task, label: str, error: NewError | None) -> None:
        if task.process.is_dead:
            raise Killed
        task.label, task.error = label, error
        self._hub.switch()
        raised, task.raised = task.raised, None
        if raised is not None:
            raise raised

    def _switch(self, task: Task, switch: Callable[[], object]) -> None:
        self.current = task
        try:
            switch()
        finally:
            self.current = None


class TaskFuture(Future[T]):
    """Waiting for it lets other tasks run."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def result(self, timeout: float | None = None) -> T:
        self._scheduler.wait_until(self.done, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._scheduler.wait_until(self.done, timeout)
        return super().exception(0)


class TaskExecutor(Executor):
    """Runs calls one after another in a task of the process, as an executor with one thread does."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process
        self._queue: deque[Callable[[], None]] = deque()
        self._is_running = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: TaskFuture[T] = TaskFuture(self._scheduler)

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  # the future hands it on
                future.set_exception(error)

        self._queue.append(call)
        if not self._is_running:
            self._is_running = True
            self._scheduler.spawn(self._process, self._work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait and not self._process.is_dead:
            self._scheduler.wait_until(lambda: not self._is_running)

    def _work(self) -> None:
        while self._queue:
            self._queue.popleft()()
        self._is_running = False


class TaskEvent(threading.Event):
    """An event whose `wait` takes virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait_until(self.is_set, timeout)


def wait_for_futures(futures: Iterable["Future[Any]"], timeout: float | None = None) -> None:
    """What `concurrent.futures.wait` does, for a TaskFuture."""
    for future in futures:
        if isinstance(future, TaskFuture):
            future._scheduler.wait_until(future.done, timeout)


class Port:
    """An implementation of a port whose calls are points: a task stops before each call, and again after its effect.

    `new_error` makes what a call may raise instead of its effect, or after it; None: these calls never fail.
    """

    def __init__(self, scheduler: Scheduler, name: str, target: Any, calls: Collection[str], new_error: Any) -> None:
        self._scheduler = scheduler
        self._name = name
        self._target = target
        self._calls = frozenset(calls)
        self._new_error = new_error

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in self._calls:
            return value
        label = f"{self._name}.{name}"

        def call(*args: Any, **kwargs: Any) -> Any:
            self._scheduler.point(label, self._new_error)
            result = value(*args, **kwargs)
            self._scheduler.point(f"{label} done", self._new_error)
            return result

        return call
