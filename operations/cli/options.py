"""Options that several subcommands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Tag = Annotated[str | None, typer.Option("--business-tag", help="The business tag of the documents.")]
