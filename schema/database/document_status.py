"""The status of a document that a required sink lacks, as one expression for every statement that sets it."""

from typing import Any

from sqlalchemy import Case, and_, case, exists

from schema.database.tables import documents, processing_tasks


def waiting_status() -> Case[Any]:
    """For an UPDATE of `documents`. Without chunks a document waits for a task, unless that failed."""
    has_failed_task = exists().where(
        processing_tasks.c.doc_id == documents.c.doc_id, processing_tasks.c.status == "failed"
    )
    return case(
        (documents.c.deleted_at.is_not(None), "deleting"),
        (and_(documents.c.chunk_count.is_(None), has_failed_task), "failed"),
        (documents.c.chunk_count.is_(None), "processing"),
        else_="pending",
    )
