"""Options that several subcommands share."""

from typing import Annotated

import typer

from operations.errors import OperationError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Tag = Annotated[str | None, typer.Option("--business-tag", help="The business tag of the documents.")]


def require_unicode(**given: str | None) -> None:
    """Raise OperationError for an argument whose bytes are not UTF-8: no store takes it."""
    for name, value in given.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            shown = name if name.isupper() else f"--{name.replace('_', '-')}"
            raise OperationError(f"{shown}: {value!r} is not UTF-8") from None
