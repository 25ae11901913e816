"""`rag-outbox ingest --queue`: upload files, and leave their processing to workers."""

from collections.abc import Callable, Sequence

import producer
from operations.ingest.files import Ingested, Labels, is_unchanged, select_documents
from operations.ingest.sources import SourceFile
from operations.wiring import System
from producer import DocumentFile, ProducerError
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
) -> None:
    """Stage every file that changed, with `force` also the others, and queue its first task.

    A file that fails is named in `total` and skipped. `advance` receives the number of files of each finished batch.
    """
    writer = system.writer()
    for some in bounded(files, _FILES_PER_BATCH):
        stored = select_documents(system, [file.doc_id for file in some])
        for file in some:
            try:
                if not force and is_unchanged(stored.get(file.doc_id), file, labels):
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
                )
                producer.run(system.engine, lambda connection: upload(connection, writer, given))  # noqa: B023
                total.queued += 1
            except ProducerError as error:
                total.failed.append(f"{file.path}: {error}")
        advance(len(some))
