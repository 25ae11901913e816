"""A process that brings the three stores in step, and dies at a named point.

    python -m tests.chaos.dying_run --data DIR --point relays.direct.DirectRelay.settle:after --hit 2

dies with status 137 after the second call of that function. Without --point it ends by comparing the stores.
`--serve` reads such runs from stdin, one JSON object per line, and forks a process for each. All modules are loaded
before the fork, but neither Milvus Lite nor gRPC is started, so that a new process takes milliseconds.
"""

import argparse
import gc
import itertools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import milvus_lite.adapter.grpc.server
from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient

from consumers.milvus import sink as milvus_sink
from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from producer import DocumentFile, Writer
from relays import direct
from schema.database.connection import connect
from schema.database.tables import metadata
from schema.object_store.directory import DirectoryStore
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID, Pipeline, document, set_model

assert milvus_lite.adapter.grpc.server  # loaded here, not after the fork

DIED = 137
SMALL_BATCHES = [patch.object(direct, "_BATCH_ROWS", 3), patch.object(milvus_sink, "_ROWS_PER_REQUEST", 1)]
LARGE = b"large file " * 6_000  # 66,000 bytes: staged

EXPECTED: dict[str, tuple[set[str], str, str, bytes]] = {  # words, tag, name of the file, its bytes
    "kept": ({"one"}, "", "kept.md", b"kept"),
    "chunked": ({"one", "two", "four"}, "", "chunked.md", b"chunked"),
    "tagged-1": ({"one", "two"}, "hr", "tagged-1.md", b"tagged"),
    "tagged-2": ({"one"}, "hr", "tagged-2.md", b"tagged"),
    "filed": ({"one"}, "", "filed.txt", b"filed again"),
    "again": ({"two"}, "", "again.md", b"again"),
    "new-1": ({"one", "two"}, "legal", "new-1.md", b"new"),
    "new-2": ({"one"}, "", "new-2.md", b"new"),
    "large-1": ({"one"}, "", "large-1.bin", LARGE),
    "large-2": ({"one"}, "", "large-2.bin", LARGE + b"2"),
}


def open_pipeline(data: Path) -> Pipeline:
    logging.disable(logging.CRITICAL)  # pymilvus logs every index that Milvus Lite does not have
    engine = connect(f"sqlite:///{data / 'metadata.db'}")
    store = DirectoryStore(data / "objects")
    client = MilvusClient(server_manager_instance.start_and_get_uri(str(data / "vectors.db")))
    return Pipeline(
        engine, store, client, Writer(MODEL), MilvusSink(client, DIMENSION, SYSTEM_ID), MinioSink(store, SYSTEM_ID)
    )


def ensure(pipeline: Pipeline) -> None:
    pipeline.milvus_sink.create()
    pipeline.minio_sink.create()


def prepare(data: Path, *, applied: bool) -> None:
    """Write documents whose events are pending; with `applied`, the sinks already hold an earlier state of them."""
    pipeline = open_pipeline(data)
    pipeline.minio_sink.create()  # for staging
    metadata.create_all(pipeline.engine)
    with pipeline.engine.begin() as connection:
        set_model(connection)
    pipeline.upsert(
        *(document(doc_id, "one", file=b"kept") for doc_id in ("kept",)),
        document("chunked", "one", "two", "three", file=b"chunked"),
        document("tagged-1", "one", "two", file=b"tagged"),
        document("tagged-2", "one", file=b"tagged"),
        document("filed", "one", file=b"filed"),
        *(document(doc_id, "one", "two", file=b"gone") for doc_id in ("gone-1", "gone-2", "again")),
    )
    if applied:
        ensure(pipeline)
        pipeline.run()
        pipeline.assert_in_step()
    _write_on(pipeline)
    pipeline.engine.dispose()
    server_manager_instance.release_all()


def _write_on(pipeline: Pipeline) -> None:
    def staged(name: str, content: bytes) -> DocumentFile:
        return DocumentFile.from_bytes(content, name, pipeline.store)

    pipeline.upsert(document("new-1", "one", "two", business_tag="legal", file=b"new"))
    pipeline.upsert(document("chunked", "one", "four", file=b"chunked"))
    pipeline.upsert(document("tagged-1", "one", "two", business_tag="hr", file=b"tagged"))
    pipeline.upsert(document("large-1", "one", file=staged("x.bin", LARGE)))
    pipeline.delete("gone-1", "again")
    pipeline.upsert(document("filed", "one", file=DocumentFile.from_bytes(b"filed again", "x.txt")))
    pipeline.upsert(document("tagged-2", "one", business_tag="hr", file=b"tagged"))
    pipeline.delete("gone-2")
    pipeline.upsert(document("chunked", "one", "two", "four", file=b"chunked"))  # "two" comes back
    pipeline.upsert(document("again", "two", file=b"again"))
    pipeline.upsert(document("large-2", "one", file=staged("x.bin", LARGE + b"2")))
    pipeline.upsert(document("new-2", "one", file=b"new"))


def run(data: Path, point: str | None, hit: int) -> None:
    """Bring the stores in step, or die at `point`."""
    for patching in SMALL_BATCHES:
        patching.start()
    if point is not None:
        name, when = point.split(":")
        patch(name, _dying(resolve_name(name), when, hit)).start()
    pipeline = open_pipeline(data)
    ensure(pipeline)
    pipeline.run()
    pipeline.assert_in_step()
    _assert_expected(pipeline)


def _dying(real: Callable[..., Any], when: str, hit: int) -> Callable[..., Any]:
    calls = itertools.count(1)  # next() is atomic: two threads never get the same number

    def call(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == hit
        if last and when == "before":
            os._exit(DIED)
        try:
            return real(*args, **kwargs)
        finally:
            if last:
                os._exit(DIED)

    return call


def _assert_expected(pipeline: Pipeline) -> None:
    words: dict[str, set[str]] = {}
    tags = {}
    for row in pipeline.milvus_rows().values():
        words.setdefault(row["doc_id"], set()).add(row["content"])
        tags[row["doc_id"]] = row["business_tag"]
    assert words == {doc_id: expected[0] for doc_id, expected in EXPECTED.items()}
    assert tags == {doc_id: expected[1] for doc_id, expected in EXPECTED.items()}
    files = {key.rpartition("/")[2]: content for key, content in pipeline.objects().items() if key.startswith("raw-")}
    assert files == {name: content for _, _, name, content in EXPECTED.values()}


def serve() -> None:
    """Answer each line with the exit status of its process and, after a failure, its traceback."""
    gc.freeze()  # loaded objects stay shared with the forks
    for line in sys.stdin:
        order = json.loads(line)
        data = Path(order["data"])
        pid = os.fork()
        if pid == 0:
            os._exit(_status(data, order))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        error = data / "error.txt"
        answer = {"status": status, "error": error.read_text() if status not in {0, DIED} and error.exists() else ""}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _status(data: Path, order: dict[str, Any]) -> int:
    try:
        if "prepare" in order:
            prepare(data, applied=order["prepare"] == "applied")
        else:
            run(data, order.get("point"), order.get("hit", 1))
    except BaseException:  # noqa: BLE001  # the test shows any error
        (data / "error.txt").write_text(traceback.format_exc())
        return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prepare", choices=["applied", "fresh"])
    parser.add_argument("--point")
    parser.add_argument("--hit", type=int, default=1)
    options = parser.parse_args()
    if options.serve:
        serve()
    elif options.prepare:
        prepare(options.data, applied=options.prepare == "applied")
    else:
        run(options.data, options.point, options.hit)


if __name__ == "__main__":
    main()
