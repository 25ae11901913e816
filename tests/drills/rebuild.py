"""Rebuild Milvus on real servers while documents are written, and kill the command twice.

It prints the rate of the refill, the peak memory of every process, and what reconcile finds at the end; status 1 if
that is anything. It works in its own database, topics, collections and bucket, and removes them but for the topics.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from producer import Chunk, Document, Writer
from tests.chaos.conftest import System, initialised
from tests.drills import result
from tests.support import servers as real
from tests.support.servers import VARIABLE
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

DIMENSION = 256
CHUNKS_PER_DOCUMENT = 10
BATCH = 50
PATIENCE_SECONDS = 7_200
JOINED = "sink_states WHERE sink = 'milvus-2'"


def open_system(path: Path) -> AbstractContextManager[System]:
    return initialised(path, real.ready(path), real.milvus(path), real.minio(path), vector_dimension=str(DIMENSION))


def document(number: int, edition: int = 0) -> Document:
    contents = [
        f"Chunk {at} of document {number}, edition {edition if at == 0 else 0}" for at in range(CHUNKS_PER_DOCUMENT)
    ]
    chunks = [Chunk(content=content, vector=vector(content)) for content in contents]
    return Document(doc_id=f"doc-{number:07}", title=f"Document {number}", source_type="text", chunks=chunks)


def vector(content: str) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.frombuffer(hashlib.shake_256(content.encode()).digest(DIMENSION), np.uint8).astype(np.float32)


def write(system: System, documents: Sequence[Document]) -> None:
    with system.stores.engine.begin() as connection:
        Writer("test-model").upsert_many(connection, documents)


def write_until(system: System, documents: int, stop: threading.Event, written: list[int]) -> None:
    """Write a batch of documents again, one after another, each with another first chunk."""
    edition = 0
    while not stop.is_set():
        edition += 1
        first = edition * BATCH % documents
        write(system, [document(number % documents, edition) for number in range(first, first + BATCH)])
        written[0] += BATCH
        stop.wait(0.5)


def wait_until_completed(system: System) -> None:
    wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=PATIENCE_SECONDS)


def peak_megabytes(process: Process) -> float:
    lines = Path(f"/proc/{process._process.pid}/status").read_text().splitlines()
    [line] = [one for one in lines if one.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def rebuild(system: System, some: Services, documents: int) -> dict[str, float]:
    """Rebuild with two kills, at a third and at two thirds of the documents. Returns seconds and peak memory."""
    began, peak = time.monotonic(), 0.0
    for share in (1 / 3, 2 / 3):
        process = some.start("rebuild", "milvus")
        enough = share * documents
        wait_for(
            lambda: system.stores.count(f"{JOINED} AND state = 'applied'") >= enough or process.status is not None,  # noqa: B023
            "the refill",
            timeout_seconds=PATIENCE_SECONDS,
        )
        if process.status is None:
            peak = max(peak, peak_megabytes(process))
            process.kill()
    process = some.start("rebuild", "milvus")
    while process.status is None:
        try:
            peak = max(peak, peak_megabytes(process))
        except (OSError, ValueError):
            break
        threading.Event().wait(0.5)
    wait_for(lambda: process.status is not None, "the rebuild to end")
    assert process.status == 0 or "still exists" in process.log, process.log
    return {"seconds": round(time.monotonic() - began, 1), "rebuild_peak_megabytes": round(peak)}


def run(chunks: int, consumers: int) -> tuple[dict[str, str], int]:
    """Returns the facts, and the number of differences at the end."""
    documents = chunks // CHUNKS_PER_DOCUMENT
    with TemporaryDirectory() as folder, open_system(Path(folder)) as system, services(system.folder) as some:
        some.relay()
        for sink in (*["milvus"] * consumers, "minio"):
            some.consumer(sink)
        began = time.monotonic()
        for first in range(0, documents, BATCH):
            write(system, [document(number) for number in range(first, min(first + BATCH, documents))])
        wait_until_completed(system)
        filled = time.monotonic() - began
        running, stop, written = list(some.processes), threading.Event(), [0]
        thread = threading.Thread(target=write_until, args=(system, documents, stop, written))
        thread.start()
        try:
            facts = rebuild(system, some, documents)
        finally:
            stop.set()
            thread.join()
        wait_until_completed(system)
        memory = {one.name: round(peak_megabytes(one)) for one in running}
        comparing = some.start("reconcile", "--full")
        wait_for(lambda: comparing.status is not None, "the comparison", timeout_seconds=PATIENCE_SECONDS)
        report = comparing.facts
    compared = ", ".join(f"{count:,} in {store}" for store, count in report["compared"].items())
    return {
        "chunks": f"{chunks:,}",
        "documents": f"{documents:,}",
        "dimension": str(DIMENSION),
        "seconds of the first fill": f"{filled:,.1f}",
        "seconds of the rebuild": f"{facts['seconds']:,.1f}",
        "chunks per second of the rebuild": f"{chunks / facts['seconds']:,.0f}",
        "documents written during the rebuild": f"{written[0]:,}",
        "peak memory of the command": f"{facts['rebuild_peak_megabytes']:,.0f} MiB",
        "peak memory of the processes": ", ".join(f"{name} {peak} MiB" for name, peak in memory.items()),
        "compared at the end": compared,
        "differences at the end": str(report["differences"]),
    }, report["differences"]


def main() -> int:
    options = result.read_options(
        __doc__, chunks=(200_000, "chunks"), consumers=(2, "processes of rag-outbox consume milvus")
    )
    result.find_servers(options)  # starts them if need be
    os.environ.setdefault(VARIABLE, str((options.servers / "servers.env").resolve()))
    facts, differences = run(options.chunks, options.consumers)
    return result.show("rebuild", facts, succeeded=not differences, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
