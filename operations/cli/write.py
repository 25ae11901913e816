"""`rag-outbox write`."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output

EXAMPLE = "rag-outbox write documents.jsonl && rag-outbox run --until-idle"


def command(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="FILE.jsonl", help="One document per line; - reads stdin."),
    ],
    as_json: Json = False,
) -> None:
    """Write documents from JSON lines, one transaction per batch.

    The first invalid line stops the command: only the lines before it are written.
    Chunks without a vector are embedded.
    """
    from operations import wiring
    from operations.ingest.write import write as run_write

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        if file is sys.stdin.buffer:
            with output.progress("Writing", None) as bar:
                done = run_write(system, file, Path(), bar.advance)
        else:
            with output.progress("Writing bytes", os.fstat(file.fileno()).st_size) as bar:
                done = run_write(system, file, Path(file.name).parent, bar.advance)
    output.result(
        asdict(done) | {"retries": system.retries},
        f"Wrote {done.written} documents with {done.chunks} chunks; {done.unchanged} were unchanged.",
    )
