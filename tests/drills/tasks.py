"""The task queue under load: no task is run twice, none is lost, and no two workers block each other.

1. `ingest --queue` uploads a small file per four tasks: extract, chunk, embed and sync.
2. Worker processes run all tasks.
3. Every task must be completed in its first attempt, every document written once, and nothing left in the store.

The deadlocks are those of the whole MySQL server, so it must have no other work.
"""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from benchmarks.system import PREFIX, System, system
from producer.processing.embed.wordllama import WordLlamaEmbedder
from schema.database.tables import TASK_TYPES
from schema.object_store import layout, s3
from tests.drills import result

_WORDS = 60  # of a file
_DEADLOCKS = "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
_TASKS = "SELECT count(*) FROM processing_tasks"
_REPEATED = """SELECT count(*) FROM (
    SELECT 1 FROM processing_tasks GROUP BY upload_id, task_type HAVING count(*) > 1 OR max(attempt) > 1
) repeated"""
_WRITTEN_ONCE = "SELECT count(*) FROM documents WHERE version = 2 AND chunk_count > 0"  # 1 is the upload


def main() -> int:
    options = result.read_options(__doc__, tasks=(20_000, "tasks"), workers=(4, "worker processes"))
    uploads = options.tasks // len(TASK_TYPES)
    with (
        system(result.find_servers(options), WordLlamaEmbedder.dimension, WordLlamaEmbedder.model) as some,
        TemporaryDirectory() as folder,
    ):
        for number in range(uploads):
            words = " ".join(f"word{number * _WORDS + position}" for position in range(_WORDS))
            (Path(folder) / f"{number}.md").write_text(f"# File {number}\n\n{words}\n")
        deadlocks = _count(some, _DEADLOCKS)
        upload_seconds = _run(some, 1, "ingest", folder, "--queue")
        seconds = _run(some, options.workers, "process", "--until-idle")
        tasks, completed = _count(some, _TASKS), _count(some, f"{_TASKS} WHERE status = 'completed'")
        repeated, written = _count(some, _REPEATED), _count(some, _WRITTEN_ONCE)
        deadlocks = _count(some, _DEADLOCKS) - deadlocks
        left = _count_left(some)
    facts = {
        "worker processes": str(options.workers),
        "uploads per second, by one process": f"{uploads / upload_seconds:,.0f}",
        "tasks": f"{tasks:,}",
        "completed": f"{completed:,}",
        "tasks per second": f"{tasks / seconds:,.0f}",
        "tasks that ran twice": str(repeated),
        "documents that were written once": f"{written:,} of {uploads:,}",
        "deadlocks": str(deadlocks),
        "results of steps that are left in the store": str(left),
    }
    is_whole = tasks == completed == uploads * len(TASK_TYPES) and written == uploads
    return result.show("tasks", facts, succeeded=is_whole and not repeated + deadlocks + left, keep=options.keep)


def _run(some: System, processes: int, *arguments: str) -> float:
    """Run a command in some processes until all have ended. Returns the seconds, their start included."""
    began = time.monotonic()
    with ExitStack() as stack:
        for process in [
            stack.enter_context(some.running(*arguments, RAG_OUTBOX_METRICS_PORT="0")) for _ in range(processes)
        ]:
            process.wait()
    return time.monotonic() - began


def _count(some: System, statement: str) -> int:
    with some.engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def _count_left(some: System) -> int:
    variable = f"{PREFIX}OBJECT_STORE"
    names = variable, f"{variable}_ACCESS_KEY", f"{variable}_SECRET_KEY"
    client = s3.connect(*(some.environment[name] for name in names))
    store = s3.S3Store(client, layout.bucket_of(some.names.namespace))
    return sum(1 for _ in store.keys(layout.task_prefix("").rstrip("/")))


if __name__ == "__main__":
    sys.exit(main())
