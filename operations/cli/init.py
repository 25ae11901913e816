"""`rag-outbox init`."""

import uuid
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output
from schema import limits

EXAMPLE = "RAG_OUTBOX_DATA_DIR=/var/lib/rag rag-outbox init"
_LABELS = {"database": "Database", "kafka": "Kafka", "milvus": "Milvus", "object_store": "Object store"}
_LANES = "Number of lanes of a new system, 16 if not given: the most relays, and consumers per sink, that have work."
_SYSTEM_ID = "Id of a new system, a new UUID if not given. It names the system in the other stores, and never changes."


def _uuid(text: str) -> str:
    """The usual form of a UUID, in lower case. Raises BadParameter."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no UUID") from None


Lanes = Annotated[int | None, typer.Option("--lanes", min=1, max=limits.LANES, help=_LANES)]
SystemId = Annotated[str | None, typer.Option("--system-id", metavar="UUID", parser=_uuid, help=_SYSTEM_ID)]


def command(lanes: Lanes = None, system_id: SystemId = None, as_json: Json = False) -> None:
    """Create the tables, collection, bucket and topics, and store the embedding model. May be repeated."""
    from operations.init import init as run_init
    from operations.settings.places import places

    given, output = settings.load(), Output(json=as_json)
    done = run_init(given, lanes, system_id)
    for note in done.notes:
        output.note(note)
    where = places(given)
    profile = "services" if given.services_since else "embedded"
    facts = {"profile": profile, **where, "data_dir": str(given.data_dir), "embedding_model": given.embedding_model}
    since = f", since {given.services_since} is set" if given.services_since else ""
    output.result(
        facts | {"dimension": given.vector_dimension, "system_id": done.system_id},
        f"Profile: {profile}{since}",
        *(f"{_LABELS[store]}: {place}" for store, place in where.items() if place is not None),
        f"Model: {given.embedding_model}, {given.vector_dimension} dimensions",
        f"System id: {done.system_id}",
    )
