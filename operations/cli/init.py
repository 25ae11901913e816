"""`rag-outbox init`."""

from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output
from schema import limits

EXAMPLE = "RAG_OUTBOX_DATA_DIR=/var/lib/rag rag-outbox init"
_LANES = "Number of lanes of a new system, 16 if not given: the most relays, and consumers per sink, that have work."

Lanes = Annotated[int | None, typer.Option("--lanes", min=1, max=limits.LANES, help=_LANES)]


def command(lanes: Lanes = None, as_json: Json = False) -> None:
    """Create the tables, collection, bucket and topics, and store the embedding model. May be repeated."""
    from operations.init import init as run_init

    given, output = settings.load(), Output(json=as_json)
    for difference in run_init(given, lanes):
        output.note(difference)
    facts = {"data_dir": str(given.data_dir), "embedding_model": given.embedding_model}
    output.result(
        facts | {"dimension": given.vector_dimension},
        f"Ready in {given.data_dir}: vectors of {given.embedding_model}, {given.vector_dimension} dimensions.",
    )
