"""What the outbox costs a writer: documents of ten chunks, with and without outbox, sink states and operation log.

Both sides make the same rows in `documents` and `chunks` (hashes and chunk ids included) on connections of the same
engine, and commit the same number of documents per transaction. The plain side sends one multi-row INSERT per table
directly through the driver, and stores no vectors: SQL has no table for them. An event with ten random vectors of 1,024
dimensions has 40 KiB. The sides alternate, and take turns in going first. Rows are counted after each run.
"""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sqlalchemy import Connection, text

from benchmarks import corpus, report
from benchmarks.corpus import CHUNKS
from benchmarks.system import MODEL, System, servers, system
from producer import Document, Writer
from schema import limits
from schema.events import identity

CASES = ((1, 1), (8, 1), (1, 100))  # threads, documents per transaction
# VALUES contains only %s: otherwise PyMySQL sends one statement per row.
DOCUMENTS = (
    "INSERT INTO documents (doc_id, version, history_id, status, title, source_type, chunk_count) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)"
)
CHUNK_ROWS = (
    "INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash, char_count, "
    "vector_version, row_version) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
Write = Callable[[Connection, Sequence[Document]], object]


def main() -> None:
    options = report.arguments(__doc__, documents=(1_000, 200, "of a run"), rounds=(5, 2, "rounds"))
    found = servers(options.servers)
    series: dict[str, list[float]] = {label: [] for case in CASES for label in labels(*case)}
    with system(found, corpus.DIMENSION) as some:
        sides: tuple[Write, Write] = (Writer(MODEL).upsert_many, plain)
        for turn in range(options.rounds):
            for case in CASES:
                both = list(zip(sides, labels(*case), strict=True))
                for write, label in both if turn % 2 == 0 else reversed(both):
                    series[label].append(timed(some, write, options.documents, *case))
                    sys.stderr.write(f"{label}: {series[label][-1]:.2f} ms\n")
        verify(some, options.documents * len(CASES) * options.rounds)
    against = {ours: raw for case in CASES for ours, raw in [labels(*case)]}
    report.report(
        "writer", "ms a document", series, keep=options.keep, against=against, goal="1.15×", documents=options.documents
    )


def labels(threads: int, documents: int) -> tuple[str, str]:
    case = f"{threads} thread{'s' * (threads > 1)}, {documents} a transaction"
    return f"rag-outbox writer, {case}", f"plain SQL, {case}"


def timed(some: System, write: Write, documents: int, threads: int, a_transaction: int) -> float:
    """Wall-clock milliseconds per document; connections and documents are made before the clock starts."""
    random = np.random.default_rng()
    prefix = f"{time.monotonic_ns():x}"
    made = [corpus.document(f"{prefix}-{number}", random) for number in range(documents)]
    shares = [made[thread::threads] for thread in range(threads)]
    connections = [some.engine.connect() for _ in shares]

    def run(connection: Connection, share: Sequence[Document]) -> None:
        for first in range(0, len(share), a_transaction):
            with connection.begin():
                write(connection, share[first : first + a_transaction])

    with ThreadPoolExecutor(threads) as pool:
        began = time.monotonic()
        list(pool.map(run, connections, shares))
        seconds = time.monotonic() - began
    for connection in connections:
        connection.close()
    return 1_000 * seconds / documents


def plain(connection: Connection, documents: Sequence[Document]) -> None:
    """The rows that a platform without an outbox writes."""
    heads = [(one.doc_id, 1, "", "pending", one.title, one.source_type, len(one.chunks or ())) for one in documents]
    rows = []
    for one in documents:
        hashes = [identity.content_hash(chunk.content) for chunk in one.chunks or ()]
        ids = identity.chunk_ids(one.doc_id, hashes)
        for index, chunk in enumerate(one.chunks or ()):
            preview = chunk.content[: limits.PREVIEW_CHARACTERS]
            labelled = (ids[index], one.doc_id, index, chunk.vector_level, chunk.modal_type)
            rows.append((*labelled, preview, hashes[index], len(chunk.content), 1, 1))
    connection.exec_driver_sql(DOCUMENTS, heads)
    connection.exec_driver_sql(CHUNK_ROWS, rows)


def verify(some: System, documents: int) -> None:
    """Both sides wrote all documents and chunks; only rag-outbox wrote what the outbox needs."""
    wanted = {
        "documents": 2 * documents,
        "chunks": 2 * documents * CHUNKS,
        "outbox": documents,
        "sink_states": 2 * documents,
        "operation_logs": documents,
    }
    with some.engine.connect() as connection:
        for table, rows in wanted.items():
            found = connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one()
            if found != rows:
                raise SystemExit(f"{found} rows in {table}, {rows} were written")


if __name__ == "__main__":
    main()
