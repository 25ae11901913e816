"""How fast files reach the object store, compared with plain minio-py puts of the same bytes to the same server.

A small file (16 KiB) travels in its event: the sink applies batches of documents, eight documents concurrently; the
plain side puts the files from eight threads. A large file (100 MiB) takes two steps: the caller stages it before the
transaction; later the sink copies it within the server. A day later a sweep removes the staged object. The plain side
puts it at its key. Two times are compared with it: that of staging, which the caller waits for, and that of all steps.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from minio import Minio
from minio.deleteobjects import DeleteObject

from benchmarks import report
from benchmarks.system import MODEL, PREFIX, servers
from consumers.minio.sink import MinioSink
from consumers.sink import Change
from producer import DocumentFile
from schema.events.events import DocumentUpserted, FileRecord
from schema.object_store.s3 import S3Store, connect

SMALL_BYTES = 16 * 1024
LARGE_BYTES = 100 * 1024 * 1024
DOCUMENTS_PER_BATCH = 500
THREADS = 8
SMALL_OURS, SMALL_RAW = "16 KiB: rag-outbox sink, files/s", "16 KiB: raw put, files/s"
STAGED, WHOLE = "100 MiB: rag-outbox staging, MiB/s", "100 MiB: rag-outbox staging and sink, MiB/s"
LARGE_RAW = "100 MiB: raw put, MiB/s"
SYSTEM_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Bucket:
    """Removed at the end."""

    name: str
    raw: Minio
    store: S3Store

    def empty(self, wanted: dict[str, int]) -> None:
        """Verify the objects by key and size, and remove them."""
        found = {one.object_name: one.size for one in self.raw.list_objects(self.name, recursive=True)}
        if found != wanted:
            raise SystemExit(f"{len(found)} objects in the store, not the {len(wanted)} that were written")
        for error in self.raw.remove_objects(self.name, [DeleteObject(key) for key in wanted]):
            raise SystemExit(f"{error.name}: {error.message}")


def main() -> None:
    options = report.arguments(
        __doc__, small=(3_000, 500, "files of 16 KiB"), large=(4, 2, "files of 100 MiB"), rounds=(4, 2, "rounds")
    )
    series: dict[str, list[float]] = {one: [] for one in (SMALL_OURS, SMALL_RAW, STAGED, WHOLE, LARGE_RAW)}
    with bucket(servers(options.servers)) as some, TemporaryDirectory() as folder:
        path = Path(folder) / "large.bin"
        path.write_bytes(os.urandom(LARGE_BYTES))
        for turn in range(options.rounds):
            order = 1 if turn % 2 == 0 else -1
            for small in (small_ours, small_raw)[::order]:
                record(series, small(some, options.small))
            for large in (large_ours, large_raw)[::order]:
                record(series, large(some, path, options.large))
    against = {SMALL_OURS: SMALL_RAW, STAGED: LARGE_RAW, WHOLE: LARGE_RAW}
    facts = {"small": options.small, "large": options.large}
    report.report("minio", "see series", series, keep=options.keep, against=against, goal="0.9 of raw", **facts)


def record(series: dict[str, list[float]], rates: dict[str, float]) -> None:
    for label, rate in rates.items():
        series[label].append(rate)
        sys.stderr.write(f"{label}: {rate:,.0f}\n")


def small_ours(some: Bucket, files: int) -> dict[str, float]:
    documents = [(f"doc-{number}", os.urandom(SMALL_BYTES)) for number in range(files)]
    changes = [
        change(doc_id, DocumentFile.from_bytes(content, "small.bin", some.store)) for doc_id, content in documents
    ]
    with closing(MinioSink(some.store, SYSTEM_ID)) as sink:
        began = time.monotonic()
        for first in range(0, files, DOCUMENTS_PER_BATCH):
            sink.apply(changes[first : first + DOCUMENTS_PER_BATCH])
        seconds = time.monotonic() - began
    some.empty({key(doc_id): SMALL_BYTES for doc_id, _ in documents})
    return {SMALL_OURS: files / seconds}


def small_raw(some: Bucket, files: int) -> dict[str, float]:
    contents = {key(f"doc-{number}"): os.urandom(SMALL_BYTES) for number in range(files)}

    def put(name: str) -> None:
        some.raw.put_object(some.name, name, BytesIO(contents[name]), SMALL_BYTES)

    with ThreadPoolExecutor(THREADS) as pool:
        began = time.monotonic()
        list(pool.map(put, contents))
        seconds = time.monotonic() - began
    some.empty(dict.fromkeys(contents, SMALL_BYTES))
    return {SMALL_RAW: files / seconds}


def large_ours(some: Bucket, path: Path, files: int) -> dict[str, float]:
    """One file after another."""
    with closing(MinioSink(some.store, SYSTEM_ID)) as sink:
        began = time.monotonic()
        changes = [change(f"doc-{number}", DocumentFile.from_path(path, some.store)) for number in range(files)]
        staged = time.monotonic() - began
        for one in changes:
            sink.apply([one])
        whole = time.monotonic() - began
    some.store.remove(list(some.store.keys("temp/")))  # as the sweep does a day later
    some.empty({key(f"doc-{number}"): LARGE_BYTES for number in range(files)})
    mib = files * LARGE_BYTES / 1024**2
    return {STAGED: mib / staged, WHOLE: mib / whole}


def large_raw(some: Bucket, path: Path, files: int) -> dict[str, float]:
    began = time.monotonic()
    for number in range(files):
        some.raw.fput_object(some.name, key(f"doc-{number}"), str(path))
    seconds = time.monotonic() - began
    some.empty({key(f"doc-{number}"): LARGE_BYTES for number in range(files)})
    return {LARGE_RAW: files * LARGE_BYTES / 1024**2 / seconds}


def key(doc_id: str) -> str:
    return f"raw-files/text/2026/01/01/{doc_id}.bin"


def change(doc_id: str, file: DocumentFile) -> Change:
    """The change of a document with a file and no chunks, as the sink gets it."""
    described = FileRecord(
        object_key=key(doc_id),
        content_type=file.content_type,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        content=file.content,
        staged_key=file.staged_key,
    )
    event = DocumentUpserted(
        doc_id=doc_id,
        version=1,
        history_id="benchmark",
        embedding_model=MODEL,
        dimension=1,
        title=doc_id,
        source_type="text",
        chunk_count=0,
        files=[described],
    )
    return Change(doc_id, 1, (event,))


@contextmanager
def bucket(found: dict[str, str]) -> Iterator[Bucket]:
    url, access, secret = (found[f"{PREFIX}OBJECT_STORE{name}"] for name in ("", "_ACCESS_KEY", "_SECRET_KEY"))
    name = f"bench-{uuid.uuid4().hex[:12]}"
    raw = Minio(urlsplit(url).netloc, access_key=access, secret_key=secret, secure=urlsplit(url).scheme == "https")
    some = Bucket(name, raw, S3Store(connect(url, access, secret), name))
    some.store.ensure()
    try:
        yield some
    finally:
        for one in raw.list_objects(name, recursive=True):
            raw.remove_object(name, one.object_name or "")
        raw.remove_bucket(name)


if __name__ == "__main__":
    main()
