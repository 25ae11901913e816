"""`rag-outbox ingest --delete-missing`: deletes the documents of files that are no longer in their folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, select

import producer
from operations.errors import OperationError
from operations.ingest.sources import Source
from operations.ingest.walk import Found
from operations.wiring import System
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.tables import documents

_DELETES_PER_BATCH = 500


def find_missing(engine: Engine, source: Source, found: Found, *, force: bool) -> list[str]:
    """The ids of documents that come from the folders of `found`, and whose files are not among its files.

    Raises OperationError when a folder could not be read; and, without `force`, when more than half of the documents of
    a folder would go: then it is probably not mounted.
    """
    if found.unreadable:
        raise OperationError(f"--delete-missing: nothing is written or deleted, since {found.unreadable[0]}")
    missing: set[str] = set()
    for folder in found.folders:
        prefix = source.prefix(folder)
        ours = [doc_id for doc_id, url in _select_living(engine, prefix) if not _is_hidden(url, prefix)]
        gone = [doc_id for doc_id in ours if doc_id not in found.present]
        if 2 * len(gone) > len(ours) and not force:
            raise OperationError(
                f"--delete-missing: {len(gone)} of {len(ours)} files ingested from {folder} are gone, so nothing is "
                "written or deleted; if the folder is complete, add --force"
            )
        missing.update(gone)
    return sorted(missing)


def delete(system: System, doc_ids: Sequence[str], note: Callable[[int], None]) -> None:
    """Delete documents in batches; `note` receives the number of each committed batch."""
    writer = system.writer()
    for batch in bounded(doc_ids, _DELETES_PER_BATCH):
        receipts = producer.run(system.engine, partial(writer.delete_many, doc_ids=batch))
        note(sum(receipt.changed for receipt in receipts))


def _select_living(engine: Engine, prefix: str) -> list[tuple[str, str]]:
    """(doc_id, source_url) of the documents whose URL begins with `prefix`; a range of the index, exact in every case.

    The prefix ends in a slash, and "0" is the character after it.
    """
    url = documents.c.source_url
    in_range = (url >= prefix) & (url < f"{prefix[:-1]}0")
    statement = select(documents.c.doc_id, url).where(in_range, documents.c.deleted_at.is_(None))
    with reading(engine) as connection:
        return [(row.doc_id, row.source_url) for row in connection.execute(statement)]


def _is_hidden(url: str, prefix: str) -> bool:
    """Whether the file is in a hidden folder, or hidden itself: it was ingested by its own path, not by the folder."""
    return any(name.startswith(".") for name in Path(url[len(prefix) :]).parts)
