"""`rag-outbox demo`."""

from pathlib import Path
from typing import Annotated

import typer

from operations.cli.output import Output

EXAMPLE = "rag-outbox demo --folder demo"


def command(
    folder: Annotated[Path, typer.Option(help="A new folder for the demo's documents and stores.")] = Path(
        "rag-outbox-demo"
    ),
) -> None:
    """Show the whole pipeline on real documents, and what a crash does to it (nothing)."""
    from operations.demo.demo import demo as run_demo

    run_demo(folder, Output())
