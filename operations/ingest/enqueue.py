"""`rag-outbox ingest --queue`: upload files, and leave their processing to workers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import producer
from operations.ingest.files import Ingested, Labels, digest, is_unchanged, select_documents
from operations.ingest.sources import SourceFile
from operations.wiring import System
from producer import DocumentFile, FileUnusable, InvalidDocument
from producer.processing.tasks import queue
from producer.processing.tasks.task_input import TaskInput
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
    priority: int = 0,
) -> None:
    """Stage every file that changed, with `force` also the others, and queue its first task.

    Tasks of a higher `priority` are taken first.

    A file that waits in the queue already keeps its place. A file that fails is named in `total` and skipped. `advance`
    receives the number of files of each finished batch.
    """
    writer = system.writer()
    for some in bounded(files, _FILES_PER_BATCH):
        doc_ids = [file.doc_id for file in some]
        stored, waiting = select_documents(system, doc_ids), queue.find_open(system.engine, doc_ids)
        for file in some:
            try:
                if not force and (
                    is_unchanged(stored.get(file.doc_id), file, labels)
                    or _is_queued(waiting.get(file.doc_id), file, labels, strategy)
                ):
                    total.unchanged += 1
                    continue
                staged = DocumentFile.from_path(file.path, system.store, always_stage=True)
                given = Upload(
                    doc_id=file.doc_id,
                    name=file.path.name,
                    file=staged,
                    source_url=file.source_url,
                    business_tag=labels.business_tag,
                    domain=labels.domain,
                    language=labels.language,
                    strategy=strategy,
                    priority=priority,
                )
                producer.run(system.engine, lambda connection: upload(connection, writer, given))  # noqa: B023
                total.queued += 1
            except (InvalidDocument, FileUnusable) as error:
                total.failed.append(f"{file.shown}: {error}")
        advance(len(some))


def _is_queued(given: TaskInput | None, file: SourceFile, labels: Labels, strategy: str | None) -> bool:
    """Whether an open task works on the same upload: another one would begin again, and never end if it came often."""
    if given is None or not file.path.is_file():
        return False
    asked = {
        "source_url": file.source_url,
        **{name: value for name, value in asdict(labels).items() if value is not None},
    }
    return (given.labels, given.strategy) == (asked, strategy) and given.file.sha256 == digest(file)
