"""`rag-outbox ingest`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json, Tag
from operations.cli.output import Output

EXAMPLE = "rag-outbox ingest handbook/ notes.md --business-tag hr --delete-missing"


def command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Text and Markdown files, or folders of them.")],
    business_tag: Tag = None,
    domain: Annotated[str | None, typer.Option(help="Domain of all these documents.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all these documents, for instance en.")] = None,
    delete_missing: Annotated[
        bool,
        typer.Option("--delete-missing", help="Delete documents whose file is no longer in these folders."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write files as documents: extract, chunk, embed, write. Files with an unchanged hash are skipped."""
    from operations import wiring
    from operations.ingest import files as ingesting

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        files, unsupported = ingesting.find(paths)
        with output.progress("Ingesting files", len(files)) as bar:
            labels = ingesting.Labels(business_tag, domain, language)
            done = ingesting.ingest(system, files, labels, bar.advance)
        done.unsupported = unsupported
        if delete_missing:
            done.deleted = ingesting.delete_missing(system, [path for path in paths if path.is_dir()])
    for reason in done.failed:
        output.note(f"failed: {reason}")
    output.result(
        asdict(done),
        f"Wrote {done.written} documents with {done.chunks} chunks ({done.embedded} embedded); "
        f"{done.unchanged} unchanged, {done.deleted} deleted, {done.unsupported} of unsupported types, "
        f"{len(done.failed)} failed.",
    )
    if done.failed:
        raise typer.Exit(1)
