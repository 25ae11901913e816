"""The header `ce_source`, which the relay sets: it names the system of an event in a shared topic."""

from collections.abc import Iterable


def find_foreign_source(headers: Iterable[tuple[str, str | bytes | None]], own: str) -> str | None:
    """The source of an event of another system; None for an event of this one, and for one without the header."""
    for name, value in headers:
        if name == "ce_source":
            source = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            return None if source == own else source
    return None
