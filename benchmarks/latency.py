"""The time from commit until a `read_committed` reader has the event, compared with Debezium with short polls.

The writer commits ten events every ten milliseconds. The reader is another process; both use the clock of this machine.
"""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from select import select

import numpy as np
from confluent_kafka import Consumer

from benchmarks import debezium, report, topic
from benchmarks.relay import EVENT_BYTES
from benchmarks.system import ROOT, System, servers, system

EVENTS_PER_COMMIT = 10
START_SECONDS = 60.0  # for publisher and reader to start
WARM_SECONDS = 3.0
Publisher = Callable[[System], AbstractContextManager[object]]
PUBLISHERS: dict[str, Publisher] = {
    "rag-outbox": lambda some: some.running("relay"),
    "Debezium": lambda some: debezium.connector(some, debezium.PROMPT),
}


def main() -> None:
    options = report.arguments(
        __doc__, seconds=(60, 15, "seconds per run"), rate=(1_000, 1_000, "events per second"), rounds=(3, 1, "rounds")
    )
    found = servers(options.servers)
    series: dict[str, list[float]] = {f"{label} p{of}": [] for of in (50, 99) for label in PUBLISHERS}
    for turn in range(options.rounds):
        for label in list(PUBLISHERS)[:: -1 if turn % 2 else 1]:
            with system(found) as some:
                milliseconds = measured(some, PUBLISHERS[label], options.seconds, options.rate)
            p50, p99 = (float(np.percentile(milliseconds, of)) for of in (50, 99))
            series[f"{label} p50"].append(p50)
            series[f"{label} p99"].append(p99)
            sys.stderr.write(f"{label}: p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(milliseconds)} events\n")
    against = {name: f"Debezium {name.split()[-1]}" for name in series}
    goal = "p99 at most 60 ms, and below Debezium's"
    facts = {"rate": options.rate, "seconds": options.seconds, "debezium": debezium.VERSION, "prompt": debezium.PROMPT}
    report.report("latency", "ms", series, keep=options.keep, against=against, goal=goal, **facts)


def measured(
    some: System, publisher: Publisher, seconds: float, rate: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The latency in milliseconds of every event after the first seconds."""
    events = int((seconds + WARM_SECONDS) * rate)
    command = [sys.executable, "-m", "benchmarks.latency", "read", some.kafka, some.names.documents_topic]
    with publisher(some):
        reader = subprocess.Popen(
            [*command, str(EVENTS_PER_COMMIT + events)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            first = write(some, EVENTS_PER_COMMIT, rate)
            assert reader.stdout is not None
            if not select([reader.stdout], [], [], START_SECONDS)[0]:
                raise SystemExit(f"nothing was read in {START_SECONDS:g} seconds")
            reader.stdout.readline()
            committed = write(some, events, rate)
            out, _ = reader.communicate(timeout=60)
        finally:
            reader.kill()
    received = json.loads(out)
    if received.keys() != first.keys() | committed.keys():
        raise SystemExit(f"{len(received)} of {len(first) + len(committed)} events were read")
    began = min(committed.values()) + WARM_SECONDS
    return 1_000 * np.array([received[one] - at for one, at in committed.items() if at >= began])


def write(some: System, events: int, rate: int) -> dict[str, float]:
    """Write events at the given rate. Returns the time at which the commit of each event returned."""
    committed: dict[str, float] = {}
    pace = EVENTS_PER_COMMIT / rate
    began = time.monotonic()
    with some.engine.connect() as connection:
        for turn in range(events // EVENTS_PER_COMMIT):
            time.sleep(max(0.0, began + turn * pace - time.monotonic()))
            ids = [str(uuid.uuid4()) for _ in range(EVENTS_PER_COMMIT)]
            topic.insert(connection, [(one, one, 1) for one in ids], EVENT_BYTES)
            connection.commit()
            committed |= dict.fromkeys(ids, time.time())
    return committed


def read(kafka: str, name: str, events: int) -> None:
    """Print a line when the first event arrives, and at the end the arrival time of each event as JSON."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.subscribe([name])
    received: dict[str, float] = {}
    deadline = time.monotonic() + 300
    while len(received) < events and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            if not received:
                print("reading", flush=True)
            received[(message.key() or b"").decode()] = time.time()
    consumer.close()
    print(json.dumps(received))


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
