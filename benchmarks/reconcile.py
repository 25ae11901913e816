"""How fast `rag-outbox reconcile` compares MySQL with Milvus and with the object store, and the memory that it takes.

All rows and objects agree: they are written straight into the stores, and the run must find no difference. The object
store has a system of its own, with fewer documents, since each object takes a request to write.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from sqlalchemy import text

from benchmarks import report
from benchmarks.system import COMMAND, PREFIX, ROOT, System, servers, system
from consumers.milvus import upsert as milvus_upsert
from schema import archive
from schema.batches import bounded
from schema.events.events import ChunkRow
from schema.object_store import layout, s3
from schema.sinks import MILVUS, MINIO, SINKS

CHUNKS_PER_DOCUMENT = 10
DIMENSION = 8
SLICE = 5_000  # documents per transaction
ROWS = 5_000  # per upsert
THREADS = 8
HASH = "0" * 64
VECTOR = np.full(DIMENSION, 0.5, "<f4")


def main() -> None:
    options = report.arguments(
        __doc__,
        chunks=(1_000_000, 100_000, "chunks"),
        objects=(20_000, 2_000, "documents with an archive"),
        rounds=(3, 1, "rounds"),
    )
    measure(servers(options.servers), options.chunks, options.objects, options.rounds, keep=options.keep)


def measure(found: dict[str, str], chunks: int, objects: int, rounds: int, *, keep: bool) -> None:
    series: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    for sink, keys, documents in ((MILVUS, chunks, chunks // CHUNKS_PER_DOCUMENT), (MINIO, objects, objects)):
        with system(found, DIMENSION) as some:
            fill(some, documents, sink)
            for _ in range(rounds):
                done = reconcile(some, sink, keys)
                series.setdefault(sink, []).append(done.rate)
                peaks.setdefault(sink, []).append(done.peak_mib)
                sys.stderr.write(f"{sink}: {done.rate:,.0f} keys/s, peak {done.peak_mib} MiB\n")
    goal = "50,000 keys/s in Milvus, bounded memory"
    facts = {"chunks": chunks, "objects": objects, "peak_mib": peaks}
    report.report("reconcile", "keys/s", series, keep=keep, against={}, goal=goal, **facts)


@dataclass(frozen=True)
class Compared:
    """One run of the command: exit status, its report, and the memory and CPU time that its process took."""

    status: int
    facts: dict[str, Any]
    peak_mib: int
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Keys of the sinks per second, by the report."""
        keys = sum(number for store, number in self.facts["compared"].items() if store in SINKS)
        return float(keys / self.facts["seconds"])


def compare(some: System, *arguments: str) -> Compared:
    """Run `rag-outbox reconcile`. Raises SystemExit if it fails; differences are no failure."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_maxrss, used.ru_utime + used.ru_stime); sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", program, str(COMMAND), "reconcile", "--json", *arguments]
    done = subprocess.run(command, env=others | some.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 3}:
        raise SystemExit(f"reconcile ended with {done.returncode}: {done.stdout} {done.stderr}")
    facts, used = done.stdout.splitlines()
    peak, cpu = used.split()
    return Compared(done.returncode, json.loads(facts), int(peak) // 1024, float(cpu))


def reconcile(some: System, sink: str, keys: int) -> Compared:
    """A run that must compare this number of keys and find no difference."""
    done = compare(some, "--sink", sink)
    if done.status or done.facts["compared"][sink] != keys:
        raise SystemExit(f"reconcile ended with {done.status}: {done.facts}")
    return done


def fill(some: System, documents: int, sink: str) -> None:
    """Documents that every sink holds by the marks, and their rows, or their archives, in one sink."""
    for first in range(0, documents, SLICE):
        fill_database(some, first, min(first + SLICE, documents))
    if sink == MILVUS:
        client = MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"])
        for numbers in bounded(range(documents * CHUNKS_PER_DOCUMENT), ROWS):
            milvus_upsert.upsert(client, some.alias, list(rows(numbers)), timeout_seconds=60)
        client.flush(some.alias)
        client.close()
        return
    names = ("", "_ACCESS_KEY", "_SECRET_KEY")
    url, access, secret = (some.environment[f"{PREFIX}OBJECT_STORE{name}"] for name in names)
    store = s3.S3Store(s3.connect(url, access, secret), layout.bucket_of(some.names.namespace))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: put_archive(store, number), range(documents)))


def fill_database(some: System, first: int, last: int) -> None:
    sequence = "WITH RECURSIVE n AS (SELECT :first AS i UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :last)"
    whole = {"first": first, "last": last}
    parts = {name: number * CHUNKS_PER_DOCUMENT for name, number in whole.items()}
    with some.engine.begin() as connection:
        connection.execute(text("SET SESSION cte_max_recursion_depth = 1000000"))
        connection.execute(
            text(
                "INSERT INTO documents (doc_id, version, history_id, title, source_type, business_tag, status, "
                f"chunk_count) {sequence} SELECT CONCAT('doc-', i), 1, (SELECT history_id FROM system_identity), "
                f"'title', 'text', 'tag', 'completed', {CHUNKS_PER_DOCUMENT} FROM n"
            ),
            whole,
        )
        connection.execute(
            text(
                f"INSERT INTO sink_states (doc_id, sink, desired_version, applied_version, state) {sequence} "
                "SELECT CONCAT('doc-', i), s.name, 1, 1, 'applied' FROM n JOIN sinks s"
            ),
            whole,
        )
        connection.execute(
            text(
                "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash, "
                f"char_count, milvus_synced, vector_version, row_version) {sequence} "
                f"SELECT LEFT(SHA2(i, 256), 32), CONCAT('doc-', i DIV {CHUNKS_PER_DOCUMENT}), "
                f"i MOD {CHUNKS_PER_DOCUMENT}, 'text', 'text', REPEAT('x', 200), '{HASH}', 200, 1, 1, 1 FROM n"
            ),
            parts,
        )


def rows(numbers: Sequence[int]) -> Iterator[dict[str, object]]:
    for number in numbers:
        yield {
            "chunk_id": chunk_id(number),
            "doc_id": f"doc-{number // CHUNKS_PER_DOCUMENT}",
            "doc_version": 1,
            "content_hash": HASH,
            "vector": VECTOR,
            "modal_type": "text",
            "business_tag": "tag",
            "vector_level": "text",
            "associate_id": "",
            "oss_id": "",
            "content": "x" * 200,
        }


def put_archive(store: s3.S3Store, number: int) -> None:
    ids = (chunk_id(number * CHUNKS_PER_DOCUMENT + index) for index in range(CHUNKS_PER_DOCUMENT))
    made = [ChunkRow(chunk_id=one, content_hash=HASH, content="x", vector=VECTOR.tobytes()) for one in ids]
    archive.write(store, f"doc-{number}", 1, 1, made)


def chunk_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


if __name__ == "__main__":
    main()
