"""`rag-outbox ingest --queue`: upload files, and leave their processing to workers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import producer
from operations.ingest.files import Ingested, Labels, digest, is_unchanged, select_documents
from operations.ingest.sources import SourceFile
from operations.wiring import System
from producer import DocumentFile, FileUnusable, InvalidDocument
from producer.processing.tasks import queue
from producer.processing.tasks.queue import OpenTask
from producer.processing.tasks.upload import Upload, upload
from schema.batches import bounded

_FILES_PER_BATCH = 50


def enqueue(
    system: System,
    files: Sequence[SourceFile],
    labels: Labels,
    total: Ingested,
    advance: Callable[[int], None],
    *,
    strategy: str | None = None,
    force: bool = False,
    priority: int | None = None,
) -> None:
    """Stage every file that changed, with `force` also the others, and queue its first task.

    A file that waits in the queue keeps its place, unless it gets other labels, another `strategy` or another
    `priority`; what is None stays as an earlier upload asked. A file that fails is named in `total` and skipped.
    `advance` receives the number of files of each finished batch.
    """
    writer = system.writer()
    for some in bounded(files, _FILES_PER_BATCH):
        doc_ids = [file.doc_id for file in some]
        stored, waiting = select_documents(system, doc_ids), queue.find_open(system.engine, doc_ids)
        for file in some:
            try:
                task = waiting.get(file.doc_id)
                asked = _asked(task, file, labels, strategy, priority)
                if not force and (
                    is_unchanged(stored.get(file.doc_id), file, labels)
                    if task is None
                    else _is_queued(task, file, asked)
                ):
                    total.unchanged += 1
                    continue
                staged = DocumentFile.from_path(file.path, system.store, always_stage=True)
                given = Upload(
                    doc_id=file.doc_id,
                    name=file.path.name,
                    file=staged,
                    strategy=asked.strategy,
                    priority=asked.priority,
                    **asked.labels,
                )
                producer.run(system.engine, lambda connection: upload(connection, writer, given))  # noqa: B023
                total.queued += 1
            except (InvalidDocument, FileUnusable) as error:
                total.failed.append(f"{file.shown}: {error}")
        advance(len(some))


@dataclass(frozen=True, slots=True)
class _Asked:
    """How a file is to be processed."""

    labels: Mapping[str, str]
    strategy: str | None
    priority: int


def _asked(
    task: OpenTask | None, file: SourceFile, labels: Labels, strategy: str | None, priority: int | None
) -> _Asked:
    """What the command asks for, and else what the upload asked for that it supersedes."""
    given = {name: value for name, value in asdict(labels).items() if value is not None}
    if task is None:
        return _Asked({"source_url": file.source_url, **given}, strategy, priority or 0)
    return _Asked(
        {**task.input.labels, "source_url": file.source_url, **given},
        strategy or task.input.strategy,
        task.priority if priority is None else priority,
    )


def _is_queued(task: OpenTask, file: SourceFile, asked: _Asked) -> bool:
    """Whether an open task does just that: another one would begin again, and never end if it came often."""
    does = _Asked(task.input.labels, task.input.strategy, task.priority)
    return does == asked and file.path.is_file() and task.input.file.sha256 == digest(file)
