"""How fast one consumer applies documents from Kafka to Milvus and marks them, compared with raw pymilvus upserts.

A document has ten chunks of 1,024 dimensions. Both sides write the same rows to the same server in batches of the same
size. The consumer's rate is measured from its first to its last mark, without the start of the process.
"""

import subprocess
import sys
import time
from contextlib import closing
from itertools import islice

import numpy as np
from pymilvus import MilvusClient
from sqlalchemy import text

from benchmarks import corpus, report
from benchmarks.corpus import CHUNKS, DIMENSION, WORDS
from benchmarks.relay import empty
from benchmarks.system import MODEL, PREFIX, System, servers, system, wait_until
from producer import Writer

DOCUMENTS_PER_WRITE = 100
ROWS_PER_REQUEST = 1_000


def main() -> None:
    options = report.arguments(__doc__, documents=(3_000, 1_000, "of ten chunks"), rounds=(3, 1, "rounds"))
    found = servers(options.servers)
    ours, raw = [], []
    for _ in range(options.rounds):
        with system(found, DIMENSION) as some:
            write(some, options.documents)
            with some.running("relay"):
                wait_until(lambda some=some: empty(some), "an empty outbox")  # type: ignore[misc]
            ours.append(consumed(some, options.documents))
            raw.append(upserted(some, options.documents * CHUNKS))
        sys.stderr.write(f"{ours[-1]:,.0f} rows/s, raw {raw[-1]:,.0f} rows/s\n")
    series = {"rag-outbox consume milvus": ours, "raw pymilvus upsert": raw}
    report.report(
        "consumer",
        "rows/s",
        series,
        keep=options.keep,
        goal="0.85 of raw",
        documents=options.documents,
        dimension=DIMENSION,
    )


def write(some: System, documents: int) -> None:
    writer, random = Writer(MODEL), np.random.default_rng(1)
    for first in range(0, documents, DOCUMENTS_PER_WRITE):
        numbers = range(first, min(documents, first + DOCUMENTS_PER_WRITE))
        with some.engine.begin() as connection:
            writer.upsert_many(connection, [corpus.document(f"doc-{number}", random) for number in numbers])


def consumed(some: System, documents: int) -> float:
    """Rows per second. Verifies that every chunk is in Milvus and marked."""
    with closing(MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"])) as client:
        with some.running("consume", "milvus") as process:
            wait_until(lambda: marked(some, process) == documents, "every document to be marked")
        [found] = client.query(some.alias, output_fields=["count(*)"], consistency_level="Strong")
    if found["count(*)"] != documents * CHUNKS:
        raise SystemExit(f"{found['count(*)']} rows in Milvus, {documents * CHUNKS} were written")
    by_moment = (
        "SELECT UNIX_TIMESTAMP(applied_at), COUNT(*) FROM sink_states WHERE sink = 'milvus' GROUP BY 1 ORDER BY 1"
    )
    with some.engine.connect() as connection:
        marks = connection.execute(text(by_moment)).all()
    (first, skipped), (last, _) = marks[0], marks[-1]
    return CHUNKS * (documents - int(skipped)) / (float(last) - float(first))


def marked(some: System, process: "subprocess.Popen[bytes]") -> int:
    if process.poll() is not None:
        raise SystemExit(f"the consumer ended with {process.returncode}")
    with some.engine.connect() as connection:
        applied = "SELECT COUNT(*) FROM sink_states WHERE sink = 'milvus' AND state = 'applied'"
        return int(connection.execute(text(applied)).scalar_one())


def upserted(some: System, rows: int) -> float:
    """Rows per second of raw upserts: the same rows under new keys into the same collection, from memory."""
    random = np.random.default_rng(2)
    fields = {"doc_version": 1, "business_tag": "", "oss_id": "", "modal_type": "text", "vector_level": "text"}

    def made(number: int) -> dict[str, object]:
        return fields | {
            "chunk_id": f"raw-{number}",
            "doc_id": f"doc-{number // CHUNKS}",
            "content_hash": f"{number:064d}",
            "vector": random.random(DIMENSION, "f4"),
            "content": f"{number} {WORDS}",
            "associate_id": "",
        }

    data = iter([made(number) for number in range(rows)])
    with closing(MilvusClient(some.environment[f"{PREFIX}MILVUS_URI"])) as client:
        began = time.monotonic()
        while batch := list(islice(data, ROWS_PER_REQUEST)):
            client.upsert(some.alias, batch, timeout=60)
        return rows / (time.monotonic() - began)


if __name__ == "__main__":
    main()
