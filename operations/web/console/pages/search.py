"""Search over the chunks, with the document of a hit beside it."""

from litestar import Response

from operations.documents.details import NoSuchDocument, describe
from operations.settings import SettingsError
from operations.web.console.pages.fields import read_choice, read_number, read_text
from operations.web.console.rendering import Asked, console_of, render
from operations.wiring import System
from schema.database.tables import SOURCE_TYPES

_HITS, _MOST = 10, 50
_CHUNKS = 3  # of the document beside


def show_search(request: Asked) -> Response[str]:
    system = console_of(request).system
    given = {
        "q": read_text(request, "q"),
        "tag": read_text(request, "tag"),
        "modal": read_text(request, "modal"),
        "domain": read_text(request, "domain"),
        "language": read_text(request, "language"),
        "type": read_choice(request, "type", SOURCE_TYPES),
        "limit": read_number(request, "limit", _HITS, least=1, most=_MOST),
    }
    shown = read_text(request, "show")
    hits, problem, beside = None, None, None
    if given["q"] is not None:
        try:
            hits = _search(system, given)
        except SettingsError as error:
            problem = str(error)
        if shown is not None and hits:
            try:
                beside = describe(system, shown, chunk_count=_CHUNKS)
            except NoSuchDocument:
                beside = None
    return render(
        request,
        "search.html",
        given=given,
        hits=hits,
        problem=problem,
        beside=beside,
        shown=shown,
        types=SOURCE_TYPES,
        model=system.settings.embedding_model,
    )


def _search(system: System, given: dict[str, object]) -> "list[object]":
    from retrieval.search import Filters, search

    labels = [given[name] for name in ("tag", "modal", "domain", "language", "type")]
    [vector] = system.require_embedder().embed([str(given["q"])])
    return list(
        search(
            system.engine,
            system.store,
            system.with_own_collection,
            vector,
            limit=int(str(given["limit"])),
            filters=Filters(*(None if one is None else str(one) for one in labels)),
            alias=system.settings.collection_alias,
        )
    )
