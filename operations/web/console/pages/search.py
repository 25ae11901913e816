"""Search over the chunks, with the document of a hit beside it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from litestar import Response

from operations.documents.details import NoSuchDocument, describe
from operations.settings import SettingsError
from operations.web.console.pages.fields import read_choice, read_number, read_text
from operations.web.console.rendering import Asked, console_of, render
from operations.wiring import System
from producer import WrongModel
from producer.processing.embed.port import EmbedderUnavailable, EmbedError, embed_query
from schema.database.tables import SOURCE_TYPES

if TYPE_CHECKING:
    from retrieval.search import Hit

_HITS, _MOST = 10, 50
_CHUNKS = 3  # of the document beside


def show_search(request: Asked) -> Response[str]:
    system = console_of(request).system
    question = read_text(request, "q")
    limit = read_number(request, "limit", _HITS, least=1, most=_MOST)
    labels = {
        "tag": read_text(request, "tag"),
        "modal": read_text(request, "modal"),
        "domain": read_text(request, "domain"),
        "language": read_text(request, "language"),
        "type": read_choice(request, "type", SOURCE_TYPES),
    }
    shown = read_text(request, "show")
    hits, problem, beside = None, None, None
    if question is not None:
        try:
            hits = _search(system, question, labels, limit)
        except (SettingsError, WrongModel, EmbedError, EmbedderUnavailable) as error:
            problem = str(error)
        if shown is not None and hits:
            try:
                beside = describe(system, shown, chunk_count=_CHUNKS)
            except NoSuchDocument:
                beside = None
    return render(
        request,
        "search.html",
        given={"q": question, **labels, "limit": limit},
        hits=hits,
        problem=problem,
        beside=beside,
        shown=shown,
        types=SOURCE_TYPES,
        model=system.settings.embedding_model,
    )


def _search(system: System, question: str, labels: Mapping[str, str | None], limit: int) -> "list[Hit]":
    from retrieval.search import Filters, search

    vector = embed_query(system.require_embedder(), question)
    return search(
        system.engine,
        system.store,
        system.with_own_collection,
        vector,
        limit=limit,
        filters=Filters(labels["tag"], labels["modal"], labels["domain"], labels["language"], labels["type"]),
        alias=system.settings.collection_alias,
    )
