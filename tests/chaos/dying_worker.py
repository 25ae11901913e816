"""Workers of the task queue that die at every step, each in a process of its own; the next one ends the work.

    python -m tests.chaos.dying_worker FOLDER

prints a line per point: its name, and "died" or "not reached". It ends with status 1 if a document is not what it must
be after the next worker.
"""

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from producer import Writer
from producer.processing.tasks import queue
from schema.database.connection import connect
from schema.database.tables import metadata
from schema.object_store.directory import DirectoryStore
from tests.support.pipeline import MODEL, SYSTEM_ID, Pipeline, set_model
from tests.support.tasks import upload_text, work

DIED = 137
STEPS = "producer.processing.tasks.steps.Steps"
QUEUE = "producer.processing.tasks.queue"
POINTS = [
    (f"{QUEUE}.claim", "after", (1, 2, 3, 4)),
    (f"{STEPS}._extract", "after", (1,)),
    (f"{STEPS}._chunk", "after", (1,)),
    (f"{STEPS}._embed", "after", (1,)),
    (f"{STEPS}._put", "before", (1, 2, 3)),
    (f"{STEPS}._put", "after", (1, 2, 3)),
    (f"{QUEUE}.finish", "before", (1, 2, 3, 4)),
    (f"{QUEUE}.finish", "after", (1, 2, 3, 4)),
    (f"{QUEUE}.add_next", "after", (1, 2, 3)),
    ("producer.writer.Writer.upsert", "after", (1,)),
    (f"{STEPS}.clean_up", "before", (1,)),
    (f"{STEPS}.clean_up", "after", (1,)),
]


def _open(folder: Path) -> Pipeline:
    """Milvus is not needed: the work of a worker ends with the outbox."""
    engine = connect(f"sqlite:///{folder / 'metadata.db'}")
    nothing: Any = None
    store = DirectoryStore(folder / "objects")
    sinks: tuple[MilvusSink, MinioSink] = nothing, MinioSink(store, SYSTEM_ID)
    return Pipeline(engine, store, nothing, Writer(MODEL), *sinks)


def _prepare(folder: Path) -> None:
    folder.mkdir()
    pipeline = _open(folder)
    pipeline.minio_sink.create()
    metadata.create_all(pipeline.engine)
    with pipeline.engine.begin() as connection:
        set_model(connection)
    upload_text(pipeline, "d", "# One\n\nfirst\n\n# Two\n\nsecond")
    pipeline.engine.dispose()


def _die_at(point: str, when: str, hit: int) -> None:
    real, calls = resolve_name(point), 0

    def call(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == hit and when == "before":
            os._exit(DIED)
        result = real(*given, **named)
        if calls == hit:
            os._exit(DIED)
        return result

    patch(point, call).start()


def _check(pipeline: Pipeline, folder: Path) -> None:
    rows = pipeline.sql("SELECT task_type, status FROM processing_tasks ORDER BY task_type")
    assert sorted(rows) == [(step, "completed") for step in ("chunk", "embed", "extract", "sync")], rows
    [document] = pipeline.sql("SELECT version, status, chunk_count FROM documents")
    assert tuple(document) == (2, "pending", 1), document
    assert [one.version for one in _versions(pipeline)] == [1, 2]
    assert (folder / "objects").is_dir()


def _versions(pipeline: Pipeline) -> list[Any]:
    return pipeline.sql("SELECT aggregate_version AS version FROM outbox ORDER BY id")


def _fork(work_in_child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work_in_child()
        except BaseException:  # noqa: BLE001  # shown by the parent's test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end(folder: Path) -> None:
    """Another worker, once the leases have ended."""
    pipeline = _open(folder)
    pipeline.execute("UPDATE processing_tasks SET lease_until = '2000-01-01' WHERE status = 'running'")
    queue.reap(pipeline.engine)
    pipeline.execute("UPDATE processing_tasks SET available_at = '2000-01-01'")
    work(pipeline)
    _check(pipeline, folder)


def main(parent: Path) -> int:
    prepared, wrong = parent / "prepared", 0
    _prepare(prepared)
    for point, when, hits in POINTS:
        for hit in hits:
            folder = parent / "run"
            shutil.copytree(prepared, folder)

            def die(point: str = point, when: str = when, hit: int = hit, folder: Path = folder) -> None:
                _die_at(point, when, hit)
                work(_open(folder))

            status = _fork(die)
            is_ended = _fork(lambda folder=folder: _end(folder)) == 0  # type: ignore[misc]
            shutil.rmtree(folder)
            wrong += not is_ended or status == 1
            sys.stdout.write(f"{point.rpartition('.')[2]}:{when}:{hit} {'died' if status == DIED else 'not reached'}\n")
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
