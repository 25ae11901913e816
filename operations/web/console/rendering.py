"""Renders the pages: Jinja with escaping always on, and the few forms that numbers and times have."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response
from litestar.datastructures import State
from litestar.enums import MediaType
from litestar.response import Redirect
from markupsafe import Markup

from operations.web.console import texts
from operations.web.console.console import Console
from operations.web.console.sessions import Session
from operations.web.console.texts import Texts

Asked = Request[Any, Any, State]

LANGUAGE_COOKIE, THEME_COOKIE = "rag_outbox_language", "rag_outbox_theme"
THEMES = ("auto", "light", "dark")
PAGES = (
    ("health", "/"),
    ("documents", "/documents"),
    ("search", "/search"),
    ("dead_letters", "/dead-letters"),
    ("consistency", "/consistency"),
    ("sinks", "/sinks"),
)
_PART = "x-part"  # the script reads a page again for a part of it: messages wait for the next whole page
_UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60))
_HERE = Path(__file__).parent


def console_of(request: Asked) -> Console:
    console: Console = request.app.state.console
    return console


def session_of(request: Asked) -> Session | None:
    """Who is signed in; the guard has looked."""
    found: Session | None = request.state.get("session")
    return found


def signed_in(request: Asked) -> Session:
    """The session of an action: the guard lets no other request through."""
    found = session_of(request)
    assert found is not None
    return found


def form_of(request: Asked) -> dict[str, list[str]]:
    """The fields of a form that the guard has checked."""
    found: dict[str, list[str]] = request.state["form"]
    return found


def texts_of(request: Asked) -> Texts:
    return texts.choose(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", ""))


def render(request: Asked, template: str, *, status: int = 200, **facts: Any) -> Response[str]:
    """The page of a template in the reader's language. `facts` are escaped."""
    words, session, console = texts_of(request), session_of(request), console_of(request)
    theme = request.cookies.get(THEME_COOKIE)
    content = _environment.get_template(template).render(
        t=words,
        languages=texts.languages(),
        pages=PAGES,
        path=request.url.path,
        here=_path_and_query(request),
        theme=theme if theme in THEMES else "auto",
        session=session,
        notes=session.take_notes() if session and _PART not in request.headers else [],
        can_sign_in=console.sessions.has_token,
        system_name=console.system.settings.namespace,
        age=lambda seconds: format_age(words, seconds),
        **facts,
    )
    return Response(content, media_type=MediaType.HTML, status_code=status)


def go_to(path: str, **query: object) -> Redirect:
    """Show another page after a form was handled, so that a reload does not send it again."""
    return Redirect(f"{path}?{urlencode(query, doseq=True)}" if query else path, status_code=303)


def format_age(words: Texts, seconds: float | None) -> str:
    """In the largest unit that is not zero; a dash for None."""
    if seconds is None:
        return "–"
    for name, size in _UNITS:
        if seconds >= size:
            return words(f"unit.{name}", n=f"{seconds / size:.0f}" if seconds >= 10 * size else f"{seconds / size:.1f}")
    return words("unit.seconds", n=f"{seconds:.1f}" if 0 < seconds < 10 else f"{seconds:.0f}")


def local_path(given: str | None) -> str:
    """`given` if it is a path of this console, else the first page: a link must not lead to another site."""
    plain = given or ""
    is_path = plain.startswith("/") and not plain.startswith(("//", "/\\")) and plain.isprintable()
    return plain if is_path and "\\" not in plain else "/"


def _path_and_query(request: Asked) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _number(value: float | int | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "–"
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" or size >= 100 else f"{size:,.1f} {unit}"


def _time(value: str | datetime | None) -> Markup:
    """A time in UTC; the script shows it in the reader's zone, with the exact value as its title."""
    if value is None:
        return Markup("–")
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    exact = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, f"{moment:%Y-%m-%d %H:%M:%S} UTC")


def _query(given: dict[str, Any], **changed: Any) -> str:
    """A query string of the fields that have a value, for links of the same list."""
    return urlencode({name: value for name, value in {**given, **changed}.items() if value not in (None, "")})


def _make_environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": _number, "size": _bytes, "time": _time, "query": _query}
    return made


_environment = _make_environment()
