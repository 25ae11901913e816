"""How long from commit until a `read_committed` reader has the event, with a live writer.

A transaction of ten events every ten milliseconds. The reader is a process of its own; both read this machine's clock.
"""

import json
import subprocess
import sys
import time
import uuid

import numpy as np
from confluent_kafka import Consumer

from benchmarks import report, topic
from benchmarks.relay import EVENT_BYTES, empty
from benchmarks.system import ROOT, System, servers, system, wait_until

EVENTS_A_COMMIT = 10
WARM_SECONDS = 3.0
INSERT = (
    "INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload) "
    "VALUES (%s, %s, 1, 'rag.document.upserted.v1', 'application/msgpack', %s)"
)


def main() -> None:
    options = report.arguments(
        __doc__, seconds=(60, 15, "of a run"), rate=(1_000, 1_000, "events a second"), rounds=(3, 1, "rounds")
    )
    found = servers(options.servers)
    p50, p99 = [], []
    for _ in range(options.rounds):
        with system(found) as some:
            milliseconds = measured(some, options.seconds, options.rate)
        p50.append(float(np.percentile(milliseconds, 50)))
        p99.append(float(np.percentile(milliseconds, 99)))
        sys.stderr.write(f"p50 {p50[-1]:.1f} ms, p99 {p99[-1]:.1f} ms of {len(milliseconds)} events\n")
    report.report("latency", "ms", {"p50": p50, "p99": p99}, keep=options.keep, rate=options.rate)


def measured(some: System, seconds: float, rate: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Milliseconds of every event after the first seconds."""
    command = [sys.executable, "-m", "benchmarks.latency", "read", some.kafka, some.names.documents_topic]
    events = int((seconds + WARM_SECONDS) * rate)
    with some.running("relay"):
        reader = subprocess.Popen([*command, str(events)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        committed = write(some, events, rate)
        wait_until(lambda: empty(some), "an empty outbox")
        out, _ = reader.communicate(timeout=60)
    received = json.loads(out)
    if received.keys() != committed.keys():
        raise SystemExit(f"{len(received)} of {len(committed)} events were read")
    began = min(committed.values()) + WARM_SECONDS
    return 1_000 * np.array([received[one] - at for one, at in committed.items() if at >= began])


def write(some: System, events: int, rate: int) -> dict[str, float]:
    """The moment at which each event's commit had returned, at the given rate."""
    committed: dict[str, float] = {}
    pace = EVENTS_A_COMMIT / rate
    began = time.monotonic()
    with some.engine.connect() as connection:
        for turn in range(events // EVENTS_A_COMMIT):
            time.sleep(max(0.0, began + turn * pace - time.monotonic()))
            ids = [str(uuid.uuid4()) for _ in range(EVENTS_A_COMMIT)]
            rows = [(one, one, topic.payload(EVENT_BYTES)) for one in ids]
            connection.exec_driver_sql(INSERT, rows)
            connection.commit()
            committed |= dict.fromkeys(ids, time.time())
    return committed


def read(kafka: str, name: str, events: int) -> None:
    """Print when each event came."""
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
            received[(message.key() or b"").decode()] = time.time()
    consumer.close()
    print(json.dumps(received))


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
