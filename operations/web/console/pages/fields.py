"""Reads the fields of a page's address and of its forms; a wrong one is named."""

from collections.abc import Collection, Sequence
from datetime import datetime

from operations.documents.listing import parse_time
from operations.errors import UsageError
from operations.web.console.rendering import Asked, form_of

_CHARACTERS = 1_100  # the longest field is the `next` of a list by title


def read_text(request: Asked, name: str, *, most: int = _CHARACTERS) -> str | None:
    """None if it is left out or blank. Raises UsageError."""
    return _checked(name, request.query_params.get(name), most)


def read_choice(request: Asked, name: str, allowed: Collection[str]) -> str | None:
    found = read_text(request, name)
    if found is not None and found not in allowed:
        raise UsageError(f"{name} {found!r}: must be one of {', '.join(allowed)}")
    return found


def read_number(request: Asked, name: str, default: int, *, least: int, most: int) -> int:
    found = read_text(request, name, most=20)
    if found is None:
        return default
    if not (found.isascii() and found.isdecimal()) or not least <= int(found) <= most:
        raise UsageError(f"{name}: must be a whole number from {least} to {most}")
    return int(found)


def read_time(request: Asked, name: str) -> datetime | None:
    """In UTC, as the database holds it."""
    found = read_text(request, name, most=40)
    try:
        return None if found is None else parse_time(found)
    except (ValueError, OverflowError):
        raise UsageError(f"{name} {found!r}: give a time like 2026-01-31T12:00") from None


def read_form_text(request: Asked, name: str, *, most: int = _CHARACTERS) -> str | None:
    return _checked(name, next(iter(form_of(request).get(name, [])), None), most)


def read_form_ids(request: Asked, name: str, *, most: int) -> list[int]:
    """The numbers of all fields of this name. Raises UsageError if there is none."""
    return _numbers(name, form_of(request).get(name, []), most)


def read_ids(request: Asked, name: str, *, most: int) -> list[int]:
    """As `read_form_ids`, of the page's address."""
    return _numbers(name, request.query_params.getall(name, []), most)


def _numbers(name: str, given: Sequence[str], most: int) -> list[int]:
    if not given or len(given) > most or not all(one.isascii() and one.isdecimal() and len(one) < 19 for one in given):
        raise UsageError(f"{name}: choose 1 to {most}")
    return [int(one) for one in dict.fromkeys(given)]


def _checked(name: str, value: str | None, most: int) -> str | None:
    if value is None:
        return None
    text = value.strip()
    if len(text) > most or "\0" in text:
        raise UsageError(f"{name}: at most {most} characters, and no character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name}: is not UTF-8") from None
    return text or None
