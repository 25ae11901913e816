"""`rag-outbox demo`."""

from pathlib import Path
from typing import Annotated

import typer

from operations.cli.output import Output

EXAMPLE = "rag-outbox demo --folder demo"


def command(
    folder: Annotated[Path, typer.Option(help="A new folder for the documents and stores of the demo.")] = Path(
        "rag-outbox-demo"
    ),
) -> None:
    """Show the whole pipeline on real documents, then kill its processes and show that nothing is lost."""
    from operations.demo.demo import demo as run_demo

    run_demo(folder, Output())
