"""Documents: find them by id, title, tag, type, state or time, page by page."""

from litestar import Response

from operations.documents.listing import STATES, Query, read_page
from operations.web.console.pages.fields import read_choice, read_number, read_text, read_time
from operations.web.console.rendering import Asked, console_of, render
from schema.database.tables import SOURCE_TYPES

PER_PAGE = 50


def show_documents(request: Asked) -> Response[str]:
    since = read_time(request, "since")
    given = {
        "id": read_text(request, "id"),
        "title": read_text(request, "title"),
        "state": read_choice(request, "state", STATES),
        "tag": read_text(request, "tag"),
        "type": read_choice(request, "type", SOURCE_TYPES),
        "since": since.isoformat(timespec="minutes") if since else None,
        "limit": read_number(request, "limit", PER_PAGE, least=1, most=500),
    }
    query = Query(
        state=given["state"],
        business_tag=given["tag"],
        source_type=given["type"],
        updated_since=since,
        after=read_text(request, "after"),
        limit=given["limit"],
        id_prefix=given["id"],
        title_prefix=given["title"],
    )
    page = read_page(console_of(request).system.engine, query)
    return render(
        request,
        "documents.html",
        given=given,
        order=query.order,
        page=page,
        is_first=query.after is None,
        is_filtered=any(given[name] for name in ("id", "title", "state", "tag", "type", "since")),
        states=STATES,
        types=SOURCE_TYPES,
    )
