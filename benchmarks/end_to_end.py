"""The time from the writer's commit until the document is in Milvus and marked.

Documents of ten chunks, one transaction per document, at a steady rate; a relay and a consumer run. `applied_at` is
the time of the mark by the database, after Milvus acknowledged; the commit time is when the commit returned here: both
from the clock of one machine.
"""

import sys
import time
from contextlib import closing

import numpy as np
from pymilvus import MilvusClient
from sqlalchemy import text

from benchmarks import corpus, report
from benchmarks.corpus import CHUNKS
from benchmarks.system import MODEL, PREFIX, System, servers, system, wait_until
from producer import Writer

WARM_SECONDS = 3.0


def main() -> None:
    options = report.arguments(
        __doc__, seconds=(30, 10, "seconds per run"), rate=(50, 50, "documents per second"), rounds=(3, 1, "rounds")
    )
    found = servers(options.servers)
    p50, p99 = [], []
    for _ in range(options.rounds):
        with system(found, corpus.DIMENSION) as some:
            milliseconds = measured(some, options.seconds, options.rate)
        p50.append(float(np.percentile(milliseconds, 50)))
        p99.append(float(np.percentile(milliseconds, 99)))
        sys.stderr.write(f"p50 {p50[-1]:.0f} ms, p99 {p99[-1]:.0f} ms of {len(milliseconds)} documents\n")
    series = {"commit → applied in Milvus, p50": p50, "commit → applied in Milvus, p99": p99}
    report.report("end_to_end", "ms", series, keep=options.keep, against={}, goal="p99 300 ms", rate=options.rate)


def measured(some: System, seconds: float, rate: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The latency in milliseconds of every document after the first seconds. Milvus must have every chunk."""
    with some.running("relay"), some.running("consume", "milvus"):
        write(some, "first", 1, rate)
        wait_until(lambda: applied(some).keys() >= {"first-0"}, "the first document", timeout_seconds=60)
        committed = write(some, "doc", int((seconds + WARM_SECONDS) * rate), rate)
        wait_until(lambda: applied(some).keys() >= committed.keys(), "every document to be marked", timeout_seconds=120)
    marked = applied(some)
    with closing(MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"])) as client:
        [found] = client.query(some.alias, output_fields=["count(*)"], consistency_level="Strong")
    if found["count(*)"] != len(marked) * CHUNKS:
        raise SystemExit(f"{found['count(*)']} rows in Milvus; {len(marked) * CHUNKS} were written")
    began = min(committed.values()) + WARM_SECONDS
    return 1_000 * np.array([marked[one] - at for one, at in committed.items() if at >= began])


def write(some: System, prefix: str, documents: int, rate: int) -> dict[str, float]:
    """Write documents at the given rate. Returns the time at which the commit of each document returned."""
    writer, random = Writer(MODEL), np.random.default_rng(1)
    committed: dict[str, float] = {}
    began = time.monotonic()
    with some.engine.connect() as connection:
        for number in range(documents):
            document = corpus.document(f"{prefix}-{number}", random)
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            with connection.begin():
                writer.upsert(connection, document)
            committed[document.doc_id] = time.time()
    return committed


def applied(some: System) -> dict[str, float]:
    """The time at which each document was marked."""
    marks = "SELECT doc_id, UNIX_TIMESTAMP(applied_at) FROM sink_states WHERE sink = 'milvus' AND state = 'applied'"
    with some.engine.connect() as connection:
        return {row.doc_id: float(row[1]) for row in connection.execute(text(marks))}


if __name__ == "__main__":
    main()
