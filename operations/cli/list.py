"""`rag-outbox list`."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json, Tag, parse_utc, require_choice, require_unicode
from operations.cli.output import Output, table

EXAMPLE = "rag-outbox list --state failed --business-tag hr --limit 20"


def command(
    state: Annotated[
        str | None,
        typer.Option(
            help="Only these: pending, processing, completed, failed, deleting, deleted. Without it, all but deleting "
            "and deleted ones."
        ),
    ] = None,
    business_tag: Tag = None,
    source_type: Annotated[
        str | None, typer.Option("--source-type", help="Only these: pdf, word, image, webpage, table, text.")
    ] = None,
    updated_since: Annotated[
        datetime | None,
        typer.Option(
            "--updated-since",
            metavar="TIME",
            parser=parse_utc,
            help="Only what changed since this ISO time (UTC), the oldest first.",
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="NEXT", help="Where to continue: `next` of the page before, or a DOC_ID.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The number of documents per page.")] = 50,
    as_json: Json = False,
) -> None:
    """List documents in the order of their ids, page by page."""
    from operations import wiring
    from operations.documents.listing import STATES, Query, read_page
    from schema.database.tables import SOURCE_TYPES

    require_unicode(business_tag=business_tag, after=after)
    require_choice("--state", state, STATES)
    require_choice("--source-type", source_type, SOURCE_TYPES)
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        page = read_page(system.engine, Query(state, business_tag, source_type, updated_since, after, limit))
    shown = table(
        "document", "title", "type", "tag", "state", "#version", "#chunks", "updated", whole=("document", "updated")
    )
    for one in page.documents:
        chunks = "-" if one["chunk_count"] is None else str(one["chunk_count"])
        tag, updated = one["business_tag"] or "-", f"{one['updated_at'][:19]}Z"
        title = one["title"] if len(one["title"]) <= 40 else f"{one['title'][:39]}…"
        shown.add_row(one["doc_id"], title, one["source_type"], tag, one["state"], str(one["version"]), chunks, updated)
    more = [f"More: --after {page.next}"] if page.next is not None else []
    output.result(asdict(page), *([shown, *more] if page.documents else ["No documents."]))
