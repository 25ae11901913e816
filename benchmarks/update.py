"""What one edited chunk of a document of 1,000 chunks costs the writer, compared with writing a document of one chunk.

The caller gives the writer the whole document, with the one vector that is new. Before each update the document is
marked as the sinks would mark it: the last version is confirmed, and its tombstones are removed. The sides alternate.
"""

import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
from sqlalchemy import Connection, text

from benchmarks import corpus, report
from benchmarks.system import MODEL, System, servers, system
from producer import Document, Writer

CHUNKS = 1_000
WARM_WRITES = 5
CONFIRMED = (
    "UPDATE sink_states SET applied_version = desired_version, state = 'applied' WHERE doc_id = 'large'",
    "UPDATE chunks SET milvus_synced = TRUE WHERE doc_id = 'large'",
    "UPDATE documents SET status = 'completed' WHERE doc_id = 'large'",
    "DELETE FROM chunk_tombstones WHERE doc_id = 'large'",
)


def main() -> None:
    options = report.arguments(__doc__, writes=(100, 30, "of each side in a round"), rounds=(3, 1, "rounds"))
    found = servers(options.servers)
    large, small = [], []
    with system(found, corpus.DIMENSION) as some:
        for turn in range(options.rounds):
            updates, writes = measured(some, turn, options.writes + WARM_WRITES)
            large.append(median(updates[WARM_WRITES:]))
            small.append(median(writes[WARM_WRITES:]))
            sys.stderr.write(f"update {large[-1]:.1f} ms, write {small[-1]:.1f} ms\n")
        sizes = payload_bytes(some)
    report.report(
        "update",
        "ms a transaction",
        {f"one chunk of {CHUNKS:,} changed": large, "document of one chunk written": small},
        keep=options.keep,
        goal="2×",
        payload_bytes=sizes,
        writes=options.writes,
    )


def measured(some: System, turn: int, writes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of every update, and of every write."""
    writer, random = Writer(MODEL), np.random.default_rng(turn)
    document = corpus.document("large", random, CHUNKS)
    updates, written = [], []
    with some.engine.connect() as connection:
        timed(connection, writer, document)
        for number in range(writes):
            confirm(connection)
            chunks = [replace(chunk, vector=None) for chunk in document.chunks or ()]
            changed = f"{turn}-{number} {corpus.WORDS}"
            chunks[number % CHUNKS] = replace(chunks[number % CHUNKS], content=changed, vector=vector(random))
            document = replace(document, chunks=chunks)
            updates.append(timed(connection, writer, document))
            written.append(timed(connection, writer, corpus.document(f"small-{turn}-{number}", random, 1)))
        verify(connection, turn, number, writes)
        confirm(connection)
    return updates, written


def timed(connection: Connection, writer: Writer, document: Document) -> float:
    began = time.perf_counter()
    with connection.begin():
        writer.upsert(connection, document)
    return 1_000 * (time.perf_counter() - began)


def confirm(connection: Connection) -> None:
    with connection.begin():
        for statement in CONFIRMED:
            connection.execute(text(statement))


def vector(random: np.random.Generator) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return random.random(corpus.DIMENSION, "f4")


def verify(connection: Connection, turn: int, number: int, writes: int) -> None:
    """Every write made one event, and the last edit is stored."""
    newest = f"SELECT COUNT(*) FROM chunks WHERE doc_id = 'large' AND content LIKE '{turn}-{number} %'"
    with connection.begin():
        for statement, wanted in (
            (newest, 1),
            ("SELECT COUNT(*) FROM chunks WHERE doc_id = 'large'", CHUNKS),
            ("SELECT COUNT(*) FROM outbox WHERE aggregate_id LIKE 'small-%'", (turn + 1) * writes),
        ):
            found = connection.execute(text(statement)).scalar_one()
            if found != wanted:
                raise SystemExit(f"{found} instead of {wanted}: {statement}")


def payload_bytes(some: System) -> dict[str, int]:
    """The payload sizes of the newest event of each side."""
    newest = "SELECT payload_bytes FROM outbox WHERE aggregate_id LIKE :doc_id ORDER BY id DESC LIMIT 1"
    with some.engine.connect() as connection:
        return {
            side: int(connection.execute(text(newest), {"doc_id": doc_id}).scalar_one())
            for side, doc_id in (("update", "large"), ("write", "small-%"))
        }


if __name__ == "__main__":
    main()
