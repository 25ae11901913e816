"""Documents: find them by id, title, tag, type, state or time, page by page."""

from litestar import Response

from operations.documents.listing import STATES, Query, read_page
from operations.web.console.pages.fields import read_choice, read_number, read_text, read_time
from operations.web.console.rendering import Asked, console_of, render
from schema.database.tables import SOURCE_TYPES

PER_PAGE = 50


def show_documents(request: Asked) -> Response[str]:
    query = Query(
        state=read_choice(request, "state", STATES),
        business_tag=read_text(request, "tag"),
        source_type=read_choice(request, "type", SOURCE_TYPES),
        updated_since=read_time(request, "since"),
        after=read_text(request, "after"),
        limit=read_number(request, "limit", PER_PAGE, least=1, most=500),
        id_prefix=read_text(request, "id"),
        title_prefix=read_text(request, "title"),
    )
    given = {
        "id": query.id_prefix,
        "title": query.title_prefix,
        "state": query.state,
        "tag": query.business_tag,
        "type": query.source_type,
        "since": query.updated_since.isoformat(timespec="minutes") if query.updated_since else None,
    }
    page = read_page(console_of(request).system.engine, query)
    return render(
        request,
        "documents.html",
        given=given | {"limit": query.limit},
        order=query.order,
        page=page,
        is_first=query.after is None,
        is_filtered=any(given.values()),
        states=STATES,
        types=SOURCE_TYPES,
    )
