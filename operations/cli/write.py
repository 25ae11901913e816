"""`rag-outbox write`."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from operations import settings
from operations.cli.interrupt import telling
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "rag-outbox write documents.jsonl && rag-outbox run --until-idle"


def command(
    file: Annotated[
        typer.FileBinaryRead,
        typer.Argument(metavar="FILE.jsonl", help="One document per line; - reads stdin."),
    ],
    files_below: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="The folder that `file.path` of a line starts at; files elsewhere are refused.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write documents from JSON lines, one transaction per batch.

    The first invalid line stops the command: only the lines before it are written.
    Chunks without a vector are embedded.
    """
    from operations import wiring
    from operations.ingest.write import Written
    from operations.ingest.write import write as run_write

    output, done = Output(json=as_json), Written()
    with wiring.open_system(settings.load()) as system:

        def facts() -> dict[str, Any]:
            return asdict(done) | {"retries": system.retries}

        def summary() -> str:
            written, chunks = count(done.written, "document"), count(done.chunks, "chunk")
            return f"rote {written} with {chunks}; {done.unchanged} unchanged."

        size_bytes = None if file is sys.stdin.buffer else os.fstat(file.fileno()).st_size
        label = "Writing" if size_bytes is None else "Writing bytes"
        with telling(facts, lambda: f"; w{summary()}"), output.progress(label, size_bytes) as bar:
            run_write(system, file, files_below, done, bar.advance)
    output.result(facts(), f"W{summary()}")
