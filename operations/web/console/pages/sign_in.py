"""Signing in and out, and what a reader prefers."""

import logging
from typing import Any

from litestar import Response
from litestar.datastructures import Cookie
from litestar.response import Redirect

from operations.web.console import texts
from operations.web.console.guard import SIGN_IN
from operations.web.console.pages.fields import read_form_text, read_text
from operations.web.console.rendering import (
    LANGUAGE_COOKIE,
    THEME_COOKIE,
    THEMES,
    Asked,
    console_of,
    go_to,
    local_path,
    render,
    signed_in,
    texts_of,
)

_log = logging.getLogger(__name__)

_YEAR_SECONDS = 365 * 86_400
_OPERATOR_CHARACTERS = 54  # and room for the suffix of the operation log


def show_sign_in(request: Asked) -> Response[str]:
    return render(request, "sign_in.html", next=local_path(read_text(request, "next")), problem=None)


def sign_in(request: Asked) -> Response[Any]:
    """Start a session for the token and the name in the form."""
    console, words = console_of(request), texts_of(request)
    path = local_path(read_form_text(request, "next"))
    operator, token = read_form_text(request, "operator", most=_OPERATOR_CHARACTERS), read_form_text(request, "token")
    if operator is None or token is None:
        return render(request, "sign_in.html", status=400, next=path, problem=words("sign_in.both_needed"))
    session = console.sessions.sign_in(token, operator)
    if session is None:
        _log.warning("console_token_refused operator=%r", operator)
        return render(request, "sign_in.html", status=403, next=path, problem=words("sign_in.wrong_token"))
    answer = go_to(path)
    answer.set_cookie(
        Cookie(
            console.cookie,
            value=session.key,
            path="/",
            httponly=True,
            samesite="strict",
            secure=request.headers.get("x-forwarded-proto") == "https",  # a proxy speaks TLS for us
        )
    )
    return answer


def sign_out(request: Asked) -> Redirect:
    console = console_of(request)
    console.sessions.sign_out(signed_in(request))
    answer = go_to("/" if not console.access.needs_session(request.headers) else SIGN_IN)
    answer.set_cookie(Cookie(console.cookie, value="", path="/", max_age=0, httponly=True, samesite="strict"))
    return answer


def set_preferences(request: Asked) -> Redirect:
    """Keep the language or the theme in a cookie, and go back."""
    answer = go_to(local_path(read_text(request, "back")))
    wanted = {LANGUAGE_COOKIE: ("language", texts.languages()), THEME_COOKIE: ("theme", THEMES)}
    for cookie, (field, allowed) in wanted.items():
        if (value := read_text(request, field)) in allowed and value is not None:
            answer.set_cookie(
                Cookie(cookie, value=value, path="/", max_age=_YEAR_SECONDS, httponly=True, samesite="lax")
            )
    return answer
