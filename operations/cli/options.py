"""Options that several subcommands share."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer

from operations.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Tag = Annotated[str | None, typer.Option("--business-tag", help="The business tag of the documents.")]


def parse_utc(text: str) -> datetime:
    """An ISO 8601 date or time as the database holds it: UTC, without a zone. Raises BadParameter."""
    from operations.documents.listing import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r}: give a time like 2026-01-31T12:00 or 2026-01-31T12:00Z") from None


def require_choice(name: str, value: str | None, allowed: Iterable[str]) -> None:
    """Raise UsageError for a value that is not allowed; None is."""
    if value is not None and value not in (known := tuple(allowed)):
        raise UsageError(f"{name} {value!r}: must be one of {', '.join(known)}")


def require_unicode(**given: str | None) -> None:
    """Raise UsageError for an argument whose bytes are not UTF-8: no store takes it."""
    for name, value in given.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            shown = name if name.isupper() else f"--{name.replace('_', '-')}"
            raise UsageError(f"{shown}: {value!r} is not UTF-8") from None
