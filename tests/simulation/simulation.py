"""One schedule: shipped processes over models, with faults, until all is quiet; a seed gives the same one again."""

import logging
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from tests.simulation import plan as plans
from tests.simulation.checks import Checks
from tests.simulation.kafka import Producer
from tests.simulation.plan import Operation, Plan
from tests.simulation.processes import LEAVE_AFTER_SECONDS, SINKS, ConsumerProcess, RelayProcess, World
from tests.simulation.scheduler import Scheduler, Task
from tests.simulation.writers import Operator, Writers

_MOST_STEPS = 12_000
_WRITES = {"milvus.upsert", "milvus.delete", "store.put", "store.copy", "store.remove"}
_DEAD = """
SELECT 1 FROM outbox_dead_letters JOIN documents ON doc_id = aggregate_id WHERE doc_id = ? AND deleted_at IS NULL
"""
_SESSION_SECONDS = 5.0  # the longest pause
_FAULT_STEPS = 2_500  # after which no more faults come


@dataclass
class Result:
    """`seen` counts the situations that the schedule reached."""

    seed: int
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    trace: list[str] = field(default_factory=list)


class Simulation:
    def __init__(self, seed: int, operations: tuple[Operation, ...] | None = None) -> None:
        random = Random(seed)
        self.plan: Plan = plans.draw(random, operations)
        self.random = random
        self.scheduler = Scheduler(random)
        self.world = World(self.scheduler, random)
        self.checks = Checks(self.world)
        self.result = Result(seed)
        self.is_healed = False
        self._silences = Random(f"silences {seed}")  # of its own: other faults come as without them
        self._silence_chance = self._silences.choice((0.0, 0.0, 0.0, 0.002))
        self._failovers = self.plan.failovers
        self._operator = Operator(self.world)
        self._operator_tasks = 0
        self._processes: list[RelayProcess | ConsumerProcess] = []  # that have not ended
        self._consumers: list[ConsumerProcess] = []  # all that there were
        self._relays: list[RelayProcess] = []
        self._lost: set[str] = set()
        self.world.broker.refusal = self.plan.refuse
        self.checks.may_refuse = self.plan.refuse > 0

    def run(self) -> Result:
        with plans.small_batches(self.plan, lambda _settings: Producer(self.world.broker)):
            try:
                self._run()
            except AssertionError as error:
                self.result.failure = str(error).split("\n")[0] or str(traceback.extract_tb(error.__traceback__)[-1])
            except Exception as error:  # noqa: BLE001  # a schedule fails by any error
                self.result.failure = f"{type(error).__name__}: {error}"
                self.result.trace = traceback.format_exc().splitlines()[-12:]
            finally:
                self.scheduler.close()
                self.world.database.raw.scheduler = None
        self.result.steps = self.scheduler.steps
        self.result.trace = [*self.scheduler.trace, *self.result.trace]
        self._count()
        return self.result

    def _run(self) -> None:
        operations = deque(self.plan.operations)
        self._writers = Writers(self.world, operations, 2, self.plan.pace_seconds)
        for number in range(self.plan.relays):
            self._start(partial(RelayProcess, self.world, f"relay{number}"))
        for sink in SINKS:
            for number in range(self.plan.consumers):
                self._start(partial(ConsumerProcess, self.world, f"{sink}{number}", sink))
        self.scheduler.on_point = self._disturb
        while not (self.is_healed and self._is_quiet()):
            if not self.is_healed and self._is_enough():
                self._heal()
            assert self.scheduler.steps < _MOST_STEPS, f"not quiet after {_MOST_STEPS} steps: {self._describe()}"
            self.scheduler.step()
            if self.scheduler.failure is not None:
                raise self.scheduler.failure
            self.checks.after_step()
        self.checks.at_the_end()

    def _start(self, new: Callable[[], RelayProcess | ConsumerProcess]) -> None:
        process = new()
        process.start_again = lambda: self._start(new)  # type: ignore[union-attr]
        self._processes.append(process)
        if isinstance(process, ConsumerProcess):
            self._consumers.append(process)
        else:
            self._relays.append(process)
        self.checks.consumers = [one for one in self._processes if isinstance(one, ConsumerProcess)]

    # Faults

    def _disturb(self, task: Task) -> None:
        """A task has stopped at a call."""
        process, plan = task.process, self.plan
        self._serve_stopped()
        if self.is_healed or not isinstance(process, (RelayProcess, ConsumerProcess)):
            return
        chance = self.random.random()
        if task.error is not None and chance < plan.fault:
            task.raised = task.error()
            self._note(f"{process.name} {task.label}: fails")
            self.result.seen["faults"] += 1
            return
        if isinstance(process, ConsumerProcess) and task.label in _WRITES and self.random.random() < plan.late:
            self._pause(process, task.label, self.random.uniform(0.5, 3.0), expires=True)
            return
        chance = self.random.random()
        if chance < plan.kill:
            if process.may_be_killed:
                self._kill(process, task.label)
        elif chance < plan.kill + plan.pause:
            seconds = self.random.choice((0.05, 0.5, 5.0)) * self.random.random()
            self._pause(process, task.label, seconds, expires=self.random.random() < plan.expire)
        elif chance < plan.kill + plan.pause + plan.restart:
            self._stop(process)
        if self._silence_chance and self._silences.random() < self._silence_chance:
            self._silence(process)
        if plan.lose_milvus and self.random.random() < plan.lose_milvus and self.world.milvus.rows is not None:
            self._note("the Milvus collection is lost")
            self.world.milvus.rows = None
            self.result.seen["milvus lost"] += 1
            self.checks.may_refuse = True
        if self.random.random() < plan.repair:
            sink, doc_id = self.random.choice(SINKS), self.random.choice(plans.DOC_IDS)
            self._note(f"a repair makes {doc_id} absent from {sink}")
            self.result.seen["repairs"] += 1
            self._operate(partial(self._repair, sink, doc_id))
        if self._failovers:
            self._move_failover(task)

    def _repair(self, sink: str, doc_id: str) -> None:
        self._operator.repair(sink, doc_id)
        if self._failovers and not self.world.database.lags and self.random.random() < 0.5:
            self.world.database.stop_replica()  # what the refill reads may be lost

    def _note(self, text: str) -> None:
        self.scheduler.trace.append(f"{self.scheduler.steps:6d} {self.scheduler.now:8.3f}s {text}")

    def _kill(self, process: RelayProcess | ConsumerProcess, label: str) -> None:
        self._note(f"{process.name} {label}: is killed")
        self.result.seen["kills"] += 1
        self.scheduler.kill(process)
        self._end(process)

    def _end(self, process: RelayProcess | ConsumerProcess) -> None:
        self._processes.remove(process)
        self.checks.consumers = [one for one in self._processes if isinstance(one, ConsumerProcess)]
        self.scheduler.call_later(self.random.uniform(0.01, 3.0), lambda: process.expire(self.world))
        self.scheduler.call_later(self.random.uniform(0.01, 2.0), process.start_again)  # type: ignore[union-attr]

    def _pause(self, process: RelayProcess | ConsumerProcess, label: str, seconds: float, *, expires: bool) -> None:
        process.paused_until = self.scheduler.now + seconds
        self.result.seen["pauses"] += 1
        if expires:
            self.checks.may_refuse = True
            process.expire(self.world)
            self.result.seen["expired"] += 1
        self._note(f"{process.name} {label}: stands still for {seconds:.2f}s{', its session ends' * expires}")

    def _silence(self, process: RelayProcess | ConsumerProcess) -> None:
        seconds = self._silences.uniform(0.1, 5 * LEAVE_AFTER_SECONDS)
        process.silent_until = self.scheduler.now + seconds
        self.result.seen["silences"] += 1
        self._note(f"the database is silent for {process.name} for {seconds:.2f}s")

    def _stop(self, process: RelayProcess | ConsumerProcess) -> None:
        if process.may_be_killed and not process.stop.is_set():
            self._note(f"{process.name}: is stopped")
            process.stop.set()

    def _serve_stopped(self) -> None:
        """Start processes again that ended by themselves; restore the store that one of them missed."""
        running = self.scheduler.processes()
        for process in [one for one in self._processes if one not in running]:
            has_missed_store = isinstance(process, ConsumerProcess) and process.lost_store
            if has_missed_store and self.world.milvus.rows is None and not self._operator_tasks:
                self._operate(self._operator.restore_milvus)
            self._end(process)

    def _operate(self, work: Callable[[], None]) -> None:
        self._operator_tasks += 1

        def run() -> None:
            work()
            self._operator_tasks -= 1

        self.scheduler.spawn(self._operator, run)

    def _move_failover(self, task: Task) -> None:
        database = self.world.database
        if not database.lags:
            if self.random.random() < (0.02 if _is_in_refill(task) else 0.003):
                database.stop_replica()
        elif self.random.random() < self._failover_chance(task):
            before = self.checks.before_failover()
            database.fail_over()
            lost = self.checks.after_failover(before)
            self.checks.may_refuse = True
            self._failovers -= 1
            self._note(f"failover while {task.process.name} stands at {task.label}; {lost} documents lost commits")
            self.result.seen["failovers"] += 1
            self.result.seen["failovers with lost commits"] += lost > 0
            if self.random.random() < 0.7:
                task.process.paused_until = self.scheduler.now + self.random.uniform(0.1, 2.0)
                if self.random.random() < 0.5:  # consumers are slower than the relays
                    for process in self._processes:
                        if isinstance(process, ConsumerProcess):
                            process.paused_until = task.process.paused_until
            self._operator_tasks += 1  # not quiet before the topic is searched
            self.scheduler.call_later(self.random.uniform(_SESSION_SECONDS, 2 * _SESSION_SECONDS), self._check_history)

    def _check_history(self) -> None:
        """The shipped check begins when sessions from before the failover have ended."""
        self._operator_tasks -= 1
        for process in self._processes:
            if isinstance(process, ConsumerProcess) and process.paused_until > self.scheduler.now:
                process.expire(self.world)
        absent = self.checks.absent
        self._operate(lambda: self._operator.check_history(absent))

    def _failover_chance(self, task: Task) -> float:
        if _is_in_refill(task):
            return self.plan.failover_in_refill
        if isinstance(task.process, RelayProcess) and task.label == "sql":
            return self.plan.failover_in_relay
        return 0.002 if self.plan.failover_in_relay else 0.01

    # The end

    def _is_enough(self) -> bool:
        """Faults end some time after the last write."""
        has_written = not self._writers.running and self.random.random() < 0.005
        return has_written or self.scheduler.steps > _FAULT_STEPS

    def _heal(self) -> None:
        self.is_healed = True
        self.world.broker.refusal = 0.0
        self._note("no more faults")
        for process in self._processes:
            process.paused_until = process.silent_until = 0.0

    def _is_quiet(self) -> bool:
        world = self.world
        if self._writers.running or self._operator_tasks or world.broker.transactions:
            return False
        if world.milvus.rows is None:
            self._operate(self._operator.restore_milvus)
            return False
        if any(topic.waiting for topic in world.topics.values()) or self._has_unmarked():
            return False
        if world.database.rows("SELECT 1 FROM outbox"):
            return False
        behind = world.database.rows("SELECT DISTINCT doc_id, state FROM sink_states WHERE state <> 'applied'")
        for doc_id, state in behind:
            is_dead = bool(world.database.rows(_DEAD, doc_id))
            is_lacking = state == "absent" and self._is_told_to_write(doc_id) and self.checks.lacks(doc_id)
            is_lost = doc_id in self.checks.lost or self._has_late_removal() or self._has_lost_part()
            assert is_dead or not is_lacking or is_lost, f"the object store lacks files of {doc_id}"
            if (is_dead or is_lacking) and doc_id not in self._lost:
                self._lost.add(doc_id)
                self.result.seen["written again"] += 1
                self._operate(partial(self._operator.write_again, doc_id))
        return not behind

    def _has_unmarked(self) -> bool:
        """Whether a consumer has given its sink a version that it did not mark, and that is not the marked one."""
        given = {(one.sink_name, *key) for one in self.checks.consumers for key in one.given}
        return bool(given) and not given <= set(
            self.world.database.rows("SELECT sink, doc_id, applied_version FROM sink_states")
        )

    def _has_late_removal(self) -> bool:
        """Whether a late consumer may have removed objects of a newer version, which no other store has."""
        return any(one.sink_name == "minio" and one.applier.counts["applied_late"] for one in self._consumers)

    def _has_lost_part(self) -> bool:
        """Whether parts came after one whose mark was lost, and before the check: they wait, and nobody sends them."""
        return self.result.seen["failovers"] > 0 and any(one.applier.counts["part_missing"] for one in self._consumers)

    def _is_told_to_write(self, doc_id: str) -> bool:
        reasons = self.world.database.rows("SELECT last_error FROM sink_states WHERE doc_id = ?", doc_id)
        return any("write the document again" in (reason or "") for (reason,) in reasons)

    def _describe(self) -> str:
        rows = self.world.database.rows
        return (
            f"outbox {rows('SELECT count(*) FROM outbox')[0][0]}, "
            f"waiting {[topic.waiting for topic in self.world.topics.values()]}, "
            f"given {[one.given for one in self.checks.consumers]}, "
            f"states {rows('SELECT doc_id, sink, state, applied_version, last_error FROM sink_states')}"
        )

    def _count(self) -> None:
        seen, world = self.result.seen, self.world
        seen["fenced"] += world.broker.fenced
        everyone: list[RelayProcess | ConsumerProcess] = [*self._relays, *self._consumers]
        seen["left without database"] += sum(one.outage._stay_until > 0 for one in everyone)
        seen["refilled"] += world.refilled
        seen["refused by Kafka"] += len(world.broker.refused)
        for consumer in self._consumers:
            seen["late consumers"] += consumer.applier.counts["applied_late"]
            seen["lost events found"] += consumer.applier.counts["lost_history"]
        seen["multi-part versions"] += self.checks.part_events
        seen["relabels with a base"] += self.checks.base_events
        seen["takeovers that settled rows"] += sum(relay.recovered for relay in self._relays)
        seen["late commits"] += self._writers.late if hasattr(self, "_writers") else 0


def _is_in_refill(task: Task) -> bool:
    return isinstance(task.process, ConsumerProcess) and task.process.refill.is_running


def run(seed: int, operations: tuple[Operation, ...] | None = None) -> Result:
    """Run one schedule, in silence: it logs a warning at nearly every step."""
    loggers = [logging.getLogger(name) for name in ("consumers", "relays", "schema")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        return Simulation(seed, operations).run()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
