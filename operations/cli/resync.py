"""`rag-outbox resync`."""

from typing import Annotated, Any

import typer

from operations import settings
from operations.cli.interrupt import telling
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "rag-outbox resync handbook-3f2a90c1d4e5 && rag-outbox run --until-idle"


def command(
    doc_ids: Annotated[list[str], typer.Argument(metavar="DOC_ID", help="Documents to send to every sink again.")],
    as_json: Json = False,
) -> None:
    """Send the current state of documents to every sink again, as their next version.

    A document that cannot be sent is named; the others are sent. A document whose file could not be processed is sent
    and stays failed, until "rag-outbox tasks retry" or another file.
    """
    from operations import wiring
    from operations.documents.resync import find_unprocessed, resync
    from operations.errors import OperationError
    from producer import ProducerError, UnknownDocument

    output = Output(json=as_json)
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def facts() -> dict[str, Any]:
        return {"resynced": done, "failed": failed}

    with (
        wiring.open_system(settings.load()) as system,
        telling(facts, lambda: f"; sent {count(len(done), 'document')} again."),
    ):
        writer = system.writer()
        for doc_id in dict.fromkeys(doc_ids):
            try:
                receipt = resync(system, writer, doc_id)
            except UnknownDocument as error:
                failed.append({"doc_id": doc_id, "reason": "it is deleted" if error.is_deleted else "no such document"})
            except (OperationError, ProducerError) as error:
                failed.append({"doc_id": doc_id, "reason": str(error)})
            else:
                left = find_unprocessed(system, doc_id)
                stays = {} if left is None else {"task_id": left.task_id, "stays_failed": left.describe()}
                done.append({"doc_id": doc_id, "version": receipt.version} | stays)
    for one in done:
        if "stays_failed" in one:
            output.note(f"{one['doc_id']}: {one['stays_failed']}")
    for one in failed:
        output.note(f"failed: {one['doc_id']}: {one['reason']}")
    output.result(facts(), f"Sent {count(len(done), 'document')} again; {len(failed)} failed.")
    if failed:
        raise typer.Exit(1)
