"""Looks at every request before its page does: its host, its session, and where a form comes from."""

import logging
from typing import Any

from litestar import Response

from operations.web.console.access import is_same_origin
from operations.web.console.rendering import Asked, console_of, go_to, local_path, render, session_of, texts_of

_log = logging.getLogger(__name__)

SIGN_IN, SESSION = "/sign-in", "/session"  # the page, and where its form goes
FORM_TOKEN = "form_token"
_OPEN = ("/static/", "/preferences")


async def check_request(request: Asked) -> Response[Any] | None:
    """None to go on, otherwise the answer. Only SESSION takes a form without a session."""
    console = console_of(request)
    if not console.access.knows_host(request.headers.get("host", "")):
        return Response("unknown host name; see the option --allowed-host of rag-outbox serve\n", status_code=421)
    request.state["session"] = session = console.sessions.find(request.cookies.get(console.cookie))
    path = request.url.path
    if request.method != "GET":
        return await _check_form(request)
    is_closed = console.access.needs_session(request.headers) and not path.startswith(_OPEN) and path != SIGN_IN
    if session is None and is_closed:
        query = f"?{request.url.query}" if request.url.query else ""
        return go_to(SIGN_IN, next=local_path(path + query))
    return None


async def _check_form(request: Asked) -> Response[Any] | None:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_same_origin(origin, host):
        return _refuse(request, "error.other_site")
    fields = await request.form()
    form = {name: [value for value in fields.getall(name) if isinstance(value, str)] for name in fields}
    request.state["form"] = form
    if request.url.path == SESSION:
        return None
    session = session_of(request)
    if session is None:
        return _refuse(request, "error.sign_in_first" if console_of(request).sessions.has_token else "error.read_only")
    if not session.accepts(request.url.path, next(iter(form.get(FORM_TOKEN, [])), "")):
        return _refuse(request, "error.form_token")
    return None


def _refuse(request: Asked, reason: str) -> Response[Any]:
    _log.warning("console_refused path=%r reason=%s", request.url.path, reason.removeprefix("error."))
    words = texts_of(request)
    return render(request, "error.html", status=403, title=words("error.refused"), detail=words(reason), hint="")
