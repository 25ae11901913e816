"""Reconcile a large system: how fast, in how much memory, whether it finds all damage, and whether it raises no false
alarm during writes.

1. Rows that agree are written straight into MySQL and Milvus. Runs must find no difference.
2. Rows are removed, changed and added in Milvus. A run must find exactly these; then they are put back.
3. Relay and consumers run while documents are written, changed and deleted. Runs must find no difference.
4. When everything is applied, a last run must find no difference.
"""

import random
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import numpy as np
from pymilvus import MilvusClient
from sqlalchemy import text

from benchmarks import reconcile as benchmark
from benchmarks.reconcile import CHUNKS_PER_DOCUMENT, DIMENSION, Compared, chunk_id
from benchmarks.system import MODEL, PREFIX, System, system, wait_until
from producer import Chunk, Document, Writer, run
from schema.sinks import MILVUS
from tests.drills import result

SINK = ("--sink", MILVUS)
DAMAGED = 50  # rows per kind
_FILLED = 100  # of the filled documents, the first are written again and deleted
_PAUSE_SECONDS = 0.01  # between two transactions


def main() -> int:
    options = result.read_options(__doc__, chunks=(1_000_000, "chunks"), rounds=(3, "runs without and with writes"))
    with system(result.find_servers(options), DIMENSION) as some:
        _say(f"filling {options.chunks:,} chunks")
        benchmark.fill(some, options.chunks // CHUNKS_PER_DOCUMENT, MILVUS)
        quiet = [_compare(some) for _ in range(options.rounds)]
        lost = _damage(some)
        damaged = _compare(some)
        _mend(some)
        with _written(some) as written:
            busy = [_compare(some) for _ in range(options.rounds)]
        wait_until(lambda: _is_applied(some), "every document to be applied")
        last = _compare(some)
    found = Counter({kind["kind"]: kind["count"] for kind in damaged.facts["kinds"]})
    alarms = sum(one.facts["differences"] for one in busy)
    facts = {
        "chunks": f"{options.chunks:,}",
        **_describe("without writes", quiet),
        "damage that it had to find": _kinds(lost),
        "damage that it found": _kinds(found),
        **_describe("with writes", busy),
        "writes during these runs": f"{written[0]:,}",
        "false alarms during these runs": str(alarms),
        "differences at the end": str(last.facts["differences"]),
    }
    succeeded = found == lost and not alarms and not any(one.status for one in (*quiet, *busy, last))
    return result.show("reconcile", facts, succeeded=succeeded, keep=options.keep)


def _compare(some: System) -> Compared:
    done = benchmark.compare(some, *SINK)
    _say(f"{done.rate:,.0f} keys/s, peak {done.peak_mib} MiB, {done.facts['differences']} differences")
    return done


def _describe(when: str, runs: list[Compared]) -> dict[str, str]:
    keys = [one.facts["compared"][MILVUS] for one in runs]
    cpu = [one.cpu_seconds / number * 1e6 for one, number in zip(runs, keys, strict=True)]
    return {
        f"keys per second {when}": ", ".join(f"{one.rate:,.0f}" for one in runs),
        f"CPU per key of the command {when}, its start included": f"{statistics.median(cpu):.1f} µs",
        f"peak memory {when}": f"{max(one.peak_mib for one in runs)} MiB",
    }


def _kinds(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def _damage(some: System) -> Counter[str]:
    """Remove some rows, change the label of others, and add rows that no document has."""
    with _client(some) as client:
        client.delete(some.alias, ids=[chunk_id(number) for number in range(DAMAGED)])
        stale = [row | {"business_tag": "other"} for row in benchmark.rows(range(DAMAGED, 2 * DAMAGED))]
        client.upsert(some.alias, stale + [row | {"chunk_id": f"orphan-{n}"} for n, row in enumerate(stale)])
    return Counter(missing=DAMAGED, stale=DAMAGED, orphaned=DAMAGED)


def _mend(some: System) -> None:
    with _client(some) as client:
        client.delete(some.alias, ids=[f"orphan-{number}" for number in range(DAMAGED)])
        client.upsert(some.alias, list(benchmark.rows(range(2 * DAMAGED))))


@contextmanager
def _client(some: System) -> Iterator[MilvusClient]:
    with closing(MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"])) as client:
        yield client


@contextmanager
def _written(some: System) -> Iterator[list[int]]:
    """Write while relay and consumers run. The list has the number of writes so far."""
    enough, written = threading.Event(), [0]
    with ExitStack() as stack:
        for arguments in (("relay",), ("consume", "milvus"), ("consume", "minio")):
            stack.enter_context(some.running(*arguments, RAG_OUTBOX_METRICS_PORT="0"))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        working = pool.submit(_write, some, enough, written)
        try:
            wait_until(lambda: written[0] > 100 or working.done(), "the first writes")
            yield written
        finally:
            enough.set()
        working.result()
        wait_until(lambda: _is_applied(some), "every document to be applied")


def _write(some: System, enough: threading.Event, written: list[int]) -> None:
    """Write new documents, change and delete them, and do the same to some of those that were filled in."""
    chance, writer = random.Random(1), Writer(MODEL)
    filled = [f"doc-{number}" for number in range(_FILLED)]
    alive = set(filled)
    while not enough.wait(_PAUSE_SECONDS):
        doc_id = chance.choice(filled) if chance.random() < 0.2 else f"new-{chance.randrange(500)}"
        if doc_id in alive and chance.random() < 0.2:
            run(some.engine, partial(writer.delete_many, doc_ids=[doc_id]))
            alive.remove(doc_id)
        else:
            run(some.engine, partial(writer.upsert, document=_document(doc_id, chance)))
            alive.add(doc_id)
        written[0] += 1


def _document(doc_id: str, chance: random.Random) -> Document:
    words = chance.sample(range(40), CHUNKS_PER_DOCUMENT)
    vector = np.full(DIMENSION, 0.5, "<f4")
    chunks = [Chunk(content=f"text {word} of {doc_id}", vector=vector) for word in words]
    return Document(doc_id=doc_id, title="t", source_type="text", business_tag=chance.choice(("a", "b")), chunks=chunks)


def _is_applied(some: System) -> bool:
    statement = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM sink_states WHERE state <> 'applied')"
    with some.engine.connect() as connection:
        return not connection.execute(text(statement)).scalar_one()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
