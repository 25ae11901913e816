"""Upload a file: in one transaction, its document and the first task of its processing.

A new document is visible with its file, and `processing`, until its chunks come. A new file of a chunked document
changes nothing before the last step replaces file and chunks in one version.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from producer.connections import Connected, connection_of
from producer.documents import Document
from producer.errors import InvalidDocument, Problem
from producer.files import DocumentFile
from producer.processing.extract import is_supported
from producer.processing.tasks import queue
from producer.processing.tasks.task_input import LABELS, TaskInput, UploadedFile
from producer.validation import validate_metadata
from producer.writer import Writer
from schema.database.history import lock_identity
from schema.database.tables import documents


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file to process. `file` must be staged: make it with `DocumentFile.from_path(path, store, always_stage=True)`.

    `name` is the file's name; its suffix says how it is read. Labels that are None come from the file, or, in a stored
    document, stay as they are. A task of a higher `priority` is taken first.
    """

    doc_id: str
    name: str
    file: DocumentFile
    title: str | None = None
    source_type: str | None = None
    source_url: str | None = None
    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None
    strategy: str | None = None
    priority: int = 0


def upload(connection: Connected, writer: Writer, given: Upload) -> str:
    """Queue the processing of a file. Returns the id of its first task.

    Processing of earlier files of the document that is not done yet is superseded. Raises InvalidDocument, WriteConflict
    and what `Writer.upsert` raises.
    """
    connection = connection_of(connection)
    labels = {name: value for name in LABELS if (value := getattr(given, name)) is not None}
    _check(given, labels)
    lock_identity(connection)
    columns = documents.c
    row = connection.execute(select(documents).where(columns.doc_id == given.doc_id).with_for_update()).one_or_none()
    queue.supersede(connection, given.doc_id)
    file = UploadedFile.of(given.name, given.file)
    if row is not None and row.deleted_at is None and row.chunk_count is not None:
        replacing = TaskInput(
            file, labels, given.strategy, replaces=row.content_sha256, is_new=False
        )
        return queue.add(connection, given.doc_id, row.version, replacing, priority=given.priority)
    receipt = writer.upsert(connection, _document(connection, given, row))
    return queue.add(
        connection, given.doc_id, receipt.version, TaskInput(file, labels, given.strategy), priority=given.priority
    )


def _document(_connection: Connection, given: Upload, row: object) -> Document:
    """The document without chunks. Labels that the upload leaves out are those of a stored one."""
    living = row is not None and getattr(row, "deleted_at") is None
    stored = {name: getattr(row, name) for name in LABELS} if living else {}
    labels = {name: getattr(given, name) or stored.get(name) for name in LABELS}
    return Document(
        **labels
        | {
            "title": labels["title"] or Path(given.name).stem or given.doc_id,
            "source_type": labels["source_type"] or "text",
        },
        doc_id=given.doc_id,
        chunks=None,
        file=given.file,
    )


def _check(given: Upload, labels: dict[str, str]) -> None:
    problems = []
    if not is_supported(Path(given.name)):
        problems.append(Problem("name", f"has a suffix that nothing reads: {given.name!r}"))
    if given.file.staged_key is None:
        problems.append(Problem("file", "must be staged: make it with always_stage=True"))
    if problems:
        raise InvalidDocument(given.doc_id, problems)
    validate_metadata(given.doc_id, labels)
