"""`rag-outbox delete`."""

from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "rag-outbox delete handbook-3f2a90c1d4e5"


def command(
    doc_ids: Annotated[list[str], typer.Argument(metavar="DOC_ID", help="Documents to delete from every store.")],
    as_json: Json = False,
) -> None:
    """Delete documents from every store. If one of them is unknown, none is deleted."""
    import producer
    from operations import wiring

    output, named = Output(json=as_json), list(dict.fromkeys(doc_ids))
    with wiring.open_system(settings.load()) as system:
        writer = system.writer()
        receipts = producer.run(system.engine, lambda connection: writer.delete_many(connection, named))
    deleted = sum(receipt.changed for receipt in receipts)
    output.result(
        {"deleted": deleted, "deleted_before": len(receipts) - deleted},
        f"Deleted {count(deleted, 'document')}; {len(receipts) - deleted} already deleted.",
    )
