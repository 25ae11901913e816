"""Upload a file: in one transaction, its document and the first task of its processing.

A new document is visible with its file, and `processing`, until its chunks come. A new file of a chunked document
changes nothing before the last step replaces file and chunks in one version.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sqlalchemy import Row, select

from producer.connections import Connected, connection_of
from producer.documents import Document
from producer.errors import InvalidDocument, Problem
from producer.files import DocumentFile, file_error
from producer.processing.chunk.strategies import NAMES
from producer.processing.extract.extract import title_of
from producer.processing.extract.formats import BY_SUFFIX
from producer.processing.extract.port import printable
from producer.processing.tasks import queue
from producer.processing.tasks.task_input import LABELS, TaskInput, UploadedFile
from producer.validation import validate_metadata
from producer.writer import Writer
from schema.database.history import lock_identity
from schema.database.tables import documents
from schema.events.identity import doc_id_error

_NAME_BYTES = 255  # a worker writes a file of this name


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file to process. `file` must be staged: make it with `DocumentFile.from_path(path, store, always_stage=True)`.

    `name` is the file's name; its suffix says how it is read. Labels that are None come from the file, or, in a stored
    document, stay as they are. `strategy` is that of the chunks (None: by the kind of text). A task of a higher
    `priority` is taken first.
    """

    doc_id: str
    name: str
    file: DocumentFile
    title: str | None = None
    source_url: str | None = None
    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None
    strategy: str | None = None
    priority: int = 0


def upload(connection: Connected, writer: Writer, given: Upload) -> str:
    """Queue the processing of a file in the caller's transaction. Returns the id of its first task.

    Processing of earlier files of the document that is not done yet is superseded. Raises InvalidDocument before
    anything is written, WriteConflict and what `Writer.upsert` raises.
    """
    connection = connection_of(connection)
    labels = {name: value for name in LABELS if (value := getattr(given, name)) is not None}
    _check(given, labels)
    lock_identity(connection)
    locked = select(documents).where(documents.c.doc_id == given.doc_id).with_for_update()
    row = connection.execute(locked).one_or_none()
    queue.supersede(connection, given.doc_id)
    file = UploadedFile.of(printable(given.name), given.file)
    if row is not None and row.deleted_at is None and row.chunk_count is not None:
        replacing = TaskInput(file, labels, given.strategy, row.content_sha256, is_new=False)
        return queue.add(connection, given.doc_id, row.version, replacing, priority=given.priority)
    receipt = writer.upsert(connection, _document(given, labels, row))
    new = TaskInput(file, labels, given.strategy)
    return queue.add(connection, given.doc_id, receipt.version, new, priority=given.priority)


def _document(given: Upload, labels: dict[str, str], row: Row[Any] | None) -> Document:
    """The document without chunks; labels that the upload leaves out are those of the stored one."""
    stored: dict[str, Any] = {} if row is None or row.deleted_at is not None else row._asdict()
    title = stored.get("title") or title_of(PurePath(given.name))
    values: dict[str, Any] = {name: stored.get(name) for name in LABELS} | {"title": title}
    return Document(
        **(values | labels),
        doc_id=given.doc_id,
        source_type=BY_SUFFIX[PurePath(given.name).suffix.lower()].source_type,
        chunks=None,
        file=given.file,
    )


def _check(given: Upload, labels: dict[str, str]) -> None:
    problems = []
    if wrong := doc_id_error(given.doc_id):
        problems.append(Problem("doc_id", wrong))
    if PurePath(given.name).suffix.lower() not in BY_SUFFIX:
        problems.append(Problem("name", f"must end in one of {' '.join(sorted(BY_SUFFIX))}, is {given.name!r}"))
    elif "\0" in given.name or len(printable(given.name).encode()) > _NAME_BYTES:
        problems.append(Problem("name", f"must have at most {_NAME_BYTES} bytes and no NUL, is {given.name!r}"))
    if given.strategy is not None and given.strategy not in NAMES:
        problems.append(Problem("strategy", f"must be one of {', '.join(NAMES)}, is {given.strategy!r}"))
    if wrong := file_error(given.file):
        problems.append(Problem("file", wrong))
    elif given.file.staged_key is None:
        problems.append(Problem("file", "must be staged: make it with always_stage=True"))
    if problems:
        raise InvalidDocument(given.doc_id, problems)
    validate_metadata(given.doc_id, labels)
