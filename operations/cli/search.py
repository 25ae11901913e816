"""`rag-outbox search`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json, Tag, require_choice, require_unicode
from operations.cli.output import Output
from operations.errors import UsageError

if TYPE_CHECKING:
    from retrieval.search import Hit

EXAMPLE = 'rag-outbox search "how do I mock a server in tests" --limit 3'


def command(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The question, in plain words.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The number of chunks to show.")] = 5,
    business_tag: Tag = None,
    modal_type: Annotated[
        str | None, typer.Option("--modal-type", help="Show only chunks of this type, for instance image.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Show only documents of this domain.")] = None,
    language: Annotated[str | None, typer.Option(help="Show only documents in this language.")] = None,
    source_type: Annotated[
        str | None, typer.Option("--source-type", help="Show only documents of this type, for instance pdf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the chunks whose meaning is nearest to a text.

    A document is filtered by its current labels. One that has just got the tag is found once Milvus has it too. Domain,
    language and source type choose among the 2,000 nearest chunks.
    """
    from operations import wiring
    from producer.processing.embed.port import embed_query
    from retrieval.search import Filters, search
    from schema.database.tables import SOURCE_TYPES

    if not text.strip():
        raise UsageError("TEXT: the question is blank")
    require_choice("--source-type", source_type, SOURCE_TYPES)
    filters = Filters(business_tag, modal_type, domain, language, source_type)
    require_unicode(TEXT=text, business_tag=business_tag, modal_type=modal_type)
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        vector = embed_query(system.require_embedder(), text)
        hits = search(
            system.engine,
            system.store,
            system.with_own_collection,
            vector,
            limit=limit,
            filters=filters,
            alias=system.settings.collection_alias,
        )
    output.result({"hits": [asdict(hit) for hit in hits]}, *(map(_describe, hits) if hits else ["Nothing found."]))


def _describe(hit: "Hit") -> str:
    stale = "  (stale)" if hit.stale else ""
    head = f"{hit.score:.3f}  {hit.title}  [{hit.doc_id}]{stale}"
    return f"{head}\n       {_shorten(hit.content)}\n       {hit.file or '-'}"


def _shorten(content: str, characters: int = 160) -> str:
    flat = " ".join(content.split())
    return flat if len(flat) <= characters else flat[:characters].rsplit(" ", 1)[0] + " …"
