"""`rag-outbox init`."""

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output

EXAMPLE = "RAG_OUTBOX_DATA_DIR=/var/lib/rag rag-outbox init"


def command(as_json: Json = False) -> None:
    """Create the tables, collection, bucket and topics, and store the embedding model. May be repeated."""
    from operations.init import init as run_init

    given, output = settings.load(), Output(json=as_json)
    for difference in run_init(given):
        output.note(difference)
    facts = {"data_dir": str(given.data_dir), "embedding_model": given.embedding_model}
    output.result(
        facts | {"dimension": given.vector_dimension},
        f"Ready in {given.data_dir}: vectors of {given.embedding_model}, {given.vector_dimension} dimensions.",
    )
