"""One document's story: everything that is known of it, its files, and sending it again."""

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote

from litestar import Response
from litestar.response import Redirect, Stream
from sqlalchemy import select

from operations import tasks
from operations.documents.details import NoSuchDocument, describe
from operations.documents.resync import find_unprocessed, resync
from operations.web.console.failures import FAILURES, NotFound
from operations.web.console.pages.fields import read_form_text, read_number, read_text
from operations.web.console.rendering import Asked, console_of, go_to, render, signed_in, texts_of
from producer import UnknownDocument
from schema.database.connection import reading
from schema.database.tables import document_files
from schema.object_store.port import ObjectMissing, Readable

FEW, MOST = 20, 1_000  # chunks
_PIECE_BYTES = 1024 * 1024


def show_document(request: Asked) -> Response[str]:
    doc_id = read_text(request, "id") or ""
    count = read_number(request, "chunks", FEW, least=1, most=MOST)
    try:
        document = describe(console_of(request).system, doc_id, chunk_count=count)
    except NoSuchDocument as error:
        raise NotFound(str(error)) from error
    return render(request, "document.html", document=document, more_chunks=min(10 * count, MOST), most=MOST)


def download_file(request: Asked) -> Stream:
    """A file of a document, as a download: a browser never shows it as a page of ours."""
    doc_id, key = read_text(request, "id") or "", read_text(request, "key") or ""
    system, files = console_of(request).system, document_files.c
    with reading(system.engine) as connection:
        found = connection.execute(select(files.size_bytes).where(files.object_key == key, files.doc_id == doc_id))
        if found.one_or_none() is None:
            raise NotFound(f"document {doc_id!r} has no file {key!r}")
    with ExitStack() as opening:
        try:
            file = opening.enter_context(system.store.open(key))
        except ObjectMissing as error:
            raise NotFound(texts_of(request)("document.file_not_stored")) from error
        pieces = _read_pieces(file, opening.pop_all())
    name = quote(key.rpartition("/")[2], safe="")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "sandbox",
    }
    return Stream(pieces, media_type="application/octet-stream", headers=headers)


def _read_pieces(file: Readable, opened: ExitStack) -> Iterator[bytes]:
    with opened:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def confirm_resync(request: Asked) -> Response[str]:
    doc_id = read_text(request, "id") or ""
    return render(
        request,
        "confirm.html",
        action="resync",
        target="/document/resync",
        back=f"/document?id={quote(doc_id)}",
        fields=[("id", doc_id)],
        lines=[doc_id],
        danger=False,
    )


def resync_document(request: Asked) -> Redirect:
    """Send the current state to every sink again, as the next version."""
    session, words = signed_in(request), texts_of(request)
    system = console_of(request).system_of(session)
    doc_id = read_form_text(request, "id") or ""
    try:
        receipt = resync(system, system.writer(), doc_id)
    except UnknownDocument as error:
        key = "document.is_deleted" if error.is_deleted else "document.is_unknown"
        session.note("failed", words(key, id=doc_id))
    except FAILURES as error:
        session.note("failed", f"{doc_id}: {error}")
    else:
        session.note("done", words("document.sent", id=doc_id, version=receipt.version))
        if find_unprocessed(system, doc_id) is not None:
            session.note("failed", words("document.stays_failed"))
    return go_to("/document", id=doc_id)


def confirm_retry(request: Asked) -> Response[str]:
    doc_id, task_id = read_text(request, "id") or "", read_text(request, "task") or ""
    task = tasks.find_failed(console_of(request).system, doc_id, task_id)
    if task is None:
        raise NotFound(texts_of(request)("document.no_failed_task", task=task_id))
    words = texts_of(request)
    return render(
        request,
        "confirm.html",
        action="retry",
        target="/document/task/retry",
        back=f"/document?id={quote(doc_id)}",
        fields=[("id", doc_id), ("task", task_id)],
        lines=[f"{words('task.' + task['task_type'])}: {task['error_message']}"],
        danger=False,
    )


def retry_task(request: Asked) -> Redirect:
    """Queue a failed task of the document again."""
    session, words = signed_in(request), texts_of(request)
    system = console_of(request).system_of(session)
    doc_id, task_id = read_form_text(request, "id") or "", read_form_text(request, "task") or ""
    is_failed = tasks.find_failed(system, doc_id, task_id) is not None
    if is_failed and task_id in tasks.retry(system, [task_id])[0]:
        session.note("done", words("document.task_queued"))
    else:
        session.note("failed", words("document.no_failed_task", task=task_id))
    return go_to("/document", id=doc_id)
