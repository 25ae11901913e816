"""What a schedule does, drawn from its seed: what is written, which faults there are, and how small the batches are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from random import Random
from typing import Any
from unittest.mock import patch

import consumers.applier
import consumers.background
import consumers.batch
import consumers.kafka
import consumers.milvus.sink
import consumers.minio.sink
import consumers.refill
import producer.desired
import relays.claim
import relays.publisher
import schema.kafka.topics
import schema.outage
from schema import limits
from tests.simulation.scheduler import wait_for_futures

DOC_IDS = ("a", "b", "x", "c")  # "a" and "x" share a lane
CONTENTS = ("one", "two", "three", "four", "five")
TAGS = ("", "red", "blue")
KINDS = ("upsert",) * 6 + ("relabel",) * 4 + ("delete",) * 2 + ("resync",)


@dataclass(frozen=True)
class Operation:
    """A write; `late` commits after writes that got higher outbox ids."""

    kind: str
    doc_id: str
    contents: tuple[str, ...] = ()
    tag: str = ""
    file: bytes | None = None
    is_late: bool = False


@dataclass(frozen=True)
class Plan:
    """Chances are per step of a task."""

    operations: tuple[Operation, ...]
    relays: int
    consumers: int  # per sink
    fault: float
    kill: float
    pause: float
    expire: float  # of a process that pauses
    restart: float
    failovers: int
    late: float  # that a consumer stands still for long just before a request to its store, and its session ends
    failover_in_relay: float  # that a failover comes while a relay stands before a transaction
    failover_in_refill: float  # that a failover comes at a call of a refill
    repair: float  # that an operator finds a document absent from a sink
    refuse: float  # that Kafka refuses an event for good
    lose_milvus: float
    rows: int  # in a batch
    event_bytes: int
    inline_bytes: int
    pace_seconds: float  # between two writes of a writer, at most


def draw_operation(random: Random, documents: int) -> Operation:
    doc_id = DOC_IDS[random.randrange(documents)]
    contents = tuple(random.sample(CONTENTS, random.randint(1, len(CONTENTS))))
    file = random.choice((None, b"a file", b"another, which is staged"))
    return Operation(random.choice(KINDS), doc_id, contents, random.choice(TAGS), file, random.random() < 0.15)


def draw(random: Random, operations: tuple[Operation, ...] | None = None) -> Plan:
    documents = random.randint(1, len(DOC_IDS))
    drawn = tuple(draw_operation(random, documents) for _ in range(random.randint(4, 20)))
    return Plan(
        operations=drawn if operations is None else operations,
        relays=random.randint(1, 2),
        consumers=random.choice((1, 2, 2)),
        fault=random.choice((0.0, 0.005, 0.03)),
        kill=random.choice((0.0, 0.003, 0.01)),
        pause=random.choice((0.0, 0.005, 0.02)),
        expire=random.choice((0.0, 0.5, 1.0)),
        restart=random.choice((0.0, 0.0, 0.003)),
        failovers=random.choice((0, 1, 2, 3)),
        late=random.choice((0.0, 0.0, 0.1)),
        failover_in_relay=random.choice((0.0, 0.1, 0.3)),
        failover_in_refill=random.choice((0.0, 0.05, 0.2)),
        repair=random.choice((0.0, 0.0, 0.005)),
        refuse=random.choice((0.0, 0.0, 0.0, 0.1)),
        lose_milvus=random.choice((0.0, 0.0, 0.002)),
        rows=random.choice((1, 2, 500)),
        event_bytes=random.choice((1_000, limits.EVENT_BYTES)),
        inline_bytes=random.choice((10, limits.INLINE_FILE_BYTES)),
        pace_seconds=random.choice((0.01, 0.1, 0.3)),
    )


class _Today(datetime):
    """The writers' clock, for dates in keys: that of the database."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Today":
        return cls(2026, 1, 1, tzinfo=tz)


@contextmanager
def small_batches(plan: Plan, new_producer: Any) -> Iterator[None]:
    """The shipped modules with small batches, with the producer of the model, and without waits of real time."""
    rows = plan.rows
    patches: list[tuple[Any, str, Any]] = [
        (relays.claim, "_ROWS_PER_LANE", rows),
        (relays.claim, "_BACKLOG_ROWS", rows),
        (relays.publisher, "Producer", new_producer),
        (schema.outage, "_STAY_SECONDS", 5.0),
        (relays.publisher, "call_with_timeout", lambda call, seconds=0.0: call()),
        (schema.kafka.topics, "read_message_limit", lambda *_: 1_000_000),
        (consumers.batch, "BATCH_ROWS", rows),
        (consumers.kafka, "wait", wait_for_futures),
        (consumers.background, "wait", wait_for_futures),
        (consumers.minio.sink, "wait", wait_for_futures),
        (consumers.applier, "_CHANGES_PER_MARK", rows),
        (consumers.milvus.sink, "_ROWS_PER_REQUEST", rows),
        (consumers.refill, "_ROUND_DOCUMENTS", rows),
        (limits, "EVENT_BYTES", plan.event_bytes),
        (producer.desired, "datetime", _Today),
        (limits, "INLINE_FILE_BYTES", plan.inline_bytes),
    ]
    with ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(patch.object(target, name, value))
        yield
