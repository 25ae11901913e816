"""The application: which path shows which page, and what every request goes through."""

from pathlib import Path

from litestar import Litestar, get, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from operations.web.console.console import Console
from operations.web.console.failures import show_failure
from operations.web.console.guard import SESSION, SIGN_IN, check_request
from operations.web.console.headers import SecurityHeaders
from operations.web.console.pages import consistency, dead_letters, document, documents, health, search, sign_in, sinks

_STATIC = Path(__file__).parent / "static"
_FORM_BYTES = 64 * 1024
_CACHE_SECONDS = 3_600

_SHOWN = {
    "/": health.show_health,
    "/documents": documents.show_documents,
    "/document": document.show_document,
    "/document/file": document.download_file,
    "/document/resync/confirm": document.confirm_resync,
    "/document/task/confirm": document.confirm_retry,
    "/search": search.show_search,
    "/dead-letters": dead_letters.show_dead_letters,
    "/dead-letter": dead_letters.show_dead_letter,
    "/dead-letters/confirm": dead_letters.confirm_dead_letters,
    "/consistency": consistency.show_consistency,
    "/consistency/repair": consistency.preview_repair,
    "/sinks": sinks.show_sinks,
    "/preferences": sign_in.set_preferences,
    SIGN_IN: sign_in.show_sign_in,
}
_SENT = {
    "/document/resync": document.resync_document,
    "/document/task/retry": document.retry_task,
    "/dead-letters/replay": dead_letters.replay_letters,
    "/dead-letters/discard": dead_letters.discard_letters,
    "/consistency/check": consistency.start_check,
    "/consistency/stop": consistency.stop_check,
    "/consistency/repair/run": consistency.run_repair,
    SESSION: sign_in.sign_in,
    "/sign-out": sign_in.sign_out,
}


def make_app(console: Console) -> ASGIApp:
    """Pages run in threads: they wait for the database.

    No path shows a page and takes a form: Litestar 2.25 would lose the thread of one of them.
    """
    handlers: list[HTTPRouteHandler] = [
        *(get(path, sync_to_thread=True)(show) for path, show in _SHOWN.items()),
        *(post(path, sync_to_thread=True)(act) for path, act in _SENT.items()),
    ]
    static = create_static_files_router(
        path="/static",
        directories=[_STATIC],
        cache_control=None,
        include_in_schema=False,
    )
    app = Litestar(
        route_handlers=[*handlers, static],
        state=State({"console": console}),
        before_request=check_request,
        exception_handlers={Exception: show_failure},
        openapi_config=None,
        request_max_body_size=_FORM_BYTES,
        logging_config=None,
    )
    return SecurityHeaders(app)
