"""`rag-outbox search`."""

from dataclasses import asdict
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json, Tag
from operations.cli.output import Output

EXAMPLE = 'rag-outbox search "how do I mock a server in tests" --limit 3'


def command(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The question, in plain words.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The number of chunks to show.")] = 5,
    business_tag: Tag = None,
    modal_type: Annotated[
        str | None, typer.Option("--modal-type", help="Show only chunks of this type, for instance image.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the chunks whose meaning is nearest to a text."""
    from operations import wiring
    from retrieval.search import search

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        [vector] = system.require_embedder().embed([text])
        hits = search(
            system.engine,
            system.store,
            system.with_own_collection,
            vector,
            limit=limit,
            business_tag=business_tag,
            modal_type=modal_type,
            alias=system.settings.collection_alias,
        )
    lines = [
        f"{hit.score:.3f}  {hit.title}  [{hit.doc_id}]\n       {_shorten(hit.content)}\n       {hit.file or '-'}"
        for hit in hits
    ]
    output.result({"hits": [asdict(hit) for hit in hits]}, *(lines or ["Nothing found."]))


def _shorten(content: str, characters: int = 160) -> str:
    flat = " ".join(content.split())
    return flat if len(flat) <= characters else flat[:characters].rsplit(" ", 1)[0] + " …"
