"""The rate of one, two and four relays or Milvus consumers, and their CPU time per event.

All processes join their group first; then one transaction copies all events into the outbox from another table. One
relay serves the consumers. Servers and processes share the cores of this machine: when the cores are busy, the rate
no longer grows, and only the CPU seconds of the processes show what more machines would give.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient
from sqlalchemy import text

from benchmarks import corpus, report, topic
from benchmarks.consumer import marked, write
from benchmarks.relay import EVENT_BYTES, empty
from benchmarks.system import System, servers, system, wait_until
from schema.sinks import MILVUS

PROCESSES = (1, 2, 4)
DOCUMENTS = 5_000
COLUMNS = "event_id, aggregate_id, aggregate_version, event_type, content_type, payload"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cpu:
    """CPU seconds of each process and, in `busy`, of all cores of this machine, within `clock` seconds."""

    processes: list[float] = field(default_factory=list)
    busy: float = 0.0
    clock: float = 0.0


def main() -> None:
    options = report.arguments(
        __doc__,
        events=(200_000, 40_000, "events that the relays drain"),
        documents=(3_000, 600, "documents that the consumers apply"),
        rounds=(2, 1, "rounds"),
    )
    found = servers(options.servers)
    series: dict[str, list[float]] = {}
    processes: dict[str, list[list[float]]] = {}
    busy: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for what, run, amount in (("relay", relays, options.events), ("consumer", consumers, options.documents)):
            for count in PROCESSES:
                with system(found, corpus.DIMENSION) as some:
                    rate, cpu = run(some, count, amount)
                name = label(what, count)
                series.setdefault(f"{name}, events/s", []).append(rate)
                series.setdefault(f"{name}, CPU µs per event", []).append(1e6 * sum(cpu.processes) / amount)
                processes.setdefault(name, []).append([round(seconds, 2) for seconds in cpu.processes])
                busy.setdefault(name, []).append(round(cpu.busy / cpu.clock, 2))
                sys.stderr.write(
                    f"{name}: {rate:,.0f} events/s, CPU seconds {processes[name][-1]}, {busy[name][-1]} cores busy\n"
                )
    against = {
        f"{label(what, count)}, {unit}": f"{label(what, PROCESSES[0])}, {unit}"
        for what in ("relay", "consumer")
        for unit in ("events/s", "CPU µs per event")
        for count in PROCESSES
    }
    report.report(
        "scale",
        "see series",
        dict(sorted(series.items(), key=lambda one: list(against).index(one[0]))),
        keep=options.keep,
        against=against,
        goal="CPU per event does not grow",
        cpu_seconds=processes,
        cores_busy=busy,
        events=options.events,
        documents=options.documents,
    )


def label(what: str, count: int) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def relays(some: System, count: int, events: int) -> tuple[float, Cpu]:
    """Events per second between the broker's times of the first and the last event, and the CPU time of the relays."""
    topic.append(some.engine, events, EVENT_BYTES, DOCUMENTS)
    hide(some)
    with joined(some, count, some.names.relays_group, "relay") as processes, appearing(some, processes) as cpu:
        wait_until(lambda: empty(some), "an empty outbox")
    seen = topic.verified(some.kafka, some.names.documents_topic, events, DOCUMENTS)
    return events / (max(one.at for one in seen) - min(one.at for one in seen)), cpu


def consumers(some: System, count: int, documents: int) -> tuple[float, Cpu]:
    """Documents per second between the first event in the topic and the last mark, and the consumers' CPU time."""
    write(some, documents)
    hide(some)
    with (
        joined(some, 1, some.names.relays_group, "relay"),
        joined(some, count, some.names.sink_group(MILVUS), "consume", MILVUS) as processes,
        appearing(some, processes) as cpu,
    ):
        wait_until(lambda: marked(some, processes[0]) == documents, "every document to be marked")
    last = "SELECT UNIX_TIMESTAMP(MAX(applied_at)) FROM sink_states WHERE sink = 'milvus'"
    with some.engine.connect() as connection:
        ended = float(connection.execute(text(last)).scalar_one())
    return documents / (ended - min(one.at for one in topic.read(some.kafka, some.names.documents_topic))), cpu


def hide(some: System) -> None:
    """Move the events to another table, where no relay sees them."""
    with some.engine.begin() as connection:
        connection.execute(text("RENAME TABLE outbox TO waiting"))
        connection.execute(text("CREATE TABLE outbox LIKE waiting"))


@contextmanager
def appearing(some: System, processes: list["subprocess.Popen[bytes]"]) -> Iterator[Cpu]:
    """Insert all events in one transaction. The CPU time is measured from its commit to the end of the context."""
    cpu = Cpu()
    with some.engine.connect() as connection:
        connection.execute(text(f"INSERT INTO outbox ({COLUMNS}) SELECT {COLUMNS} FROM waiting ORDER BY id"))
        before = [cpu_seconds(process.pid) for process in processes]
        busy, began = busy_seconds(), time.monotonic()
        connection.commit()
    yield cpu
    cpu.processes = [cpu_seconds(process.pid) - old for process, old in zip(processes, before, strict=True)]
    cpu.busy, cpu.clock = busy_seconds() - busy, time.monotonic() - began


@contextmanager
def joined(some: System, count: int, group: str, *arguments: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start `count` processes of one group, and wait until each owns some of the partitions."""
    admin = AdminClient({"bootstrap.servers": some.kafka})

    def shared() -> bool:
        described = admin.describe_consumer_groups([group])[group].result()
        owned = [member.assignment.topic_partitions for member in described.members]
        return described.state == ConsumerGroupState.STABLE and len(owned) == count and all(owned)

    with ExitStack() as stack:
        processes = [stack.enter_context(some.running(*arguments)) for _ in range(count)]
        wait_until(shared, f"{count} members of {group}", timeout_seconds=120)
        time.sleep(1.0)  # let them finish the takeover of their lanes
        yield processes


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; see proc_pid_stat(5)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def busy_seconds() -> float:
    """CPU time of all processes on this machine; see proc_stat(5)."""
    user, nice, system_time, _idle, _iowait, *interrupts = Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    return sum(map(int, (user, nice, system_time, *interrupts))) / _TICKS


if __name__ == "__main__":
    main()
