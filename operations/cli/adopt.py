"""`rag-outbox adopt`."""

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, table

if TYPE_CHECKING:
    from rich.table import Table

    from operations.adopt.report import Adopted

EXAMPLE = "rag-outbox adopt --milvus kb_vectors --mapping adopt.toml --dry-run --report failed.jsonl"


def command(
    mapping: Annotated[
        Path,
        typer.Option(metavar="FILE.toml", exists=True, dir_okay=False, help="Where the old platform keeps its data."),
    ],
    milvus: Annotated[
        str | None,
        typer.Option(metavar="COLLECTION", help="The old collection, instead of the one that the mapping names."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also write documents that others changed or deleted.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N documents, in the order of doc_id.")
    ] = None,
    max_failures: Annotated[int, typer.Option(min=0, metavar="N", help="Stop when more documents fail.")] = 1_000,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="One line per document that failed or was skipped.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the documents of an existing platform, with the vectors that its Milvus collection holds.

    Nothing is embedded again, and nothing in the old stores changes. Run it again after an interruption, or after the
    old platform changed: only what differs is written. A document that somebody else changed or deleted in the meantime
    is skipped. docs/adopt.md explains the mapping.
    """
    from operations import wiring
    from operations.adopt import adoption
    from operations.adopt.mapping import load
    from operations.adopt.report import Adopted, Report, TooManyFailures
    from operations.signals import stop_on_signals

    output, total, began = Output(json=as_json), Adopted(), time.monotonic()
    error = None
    with ExitStack() as stack:
        wanted = load(mapping, milvus)
        system = stack.enter_context(wiring.open_system(settings.load()))
        old = adoption.open_platform(stack, system, wanted, mapping.parent)
        count = old.documents.count()
        stop = stop_on_signals()
        lines = None if report is None else stack.enter_context(report.open("w", encoding="utf-8"))
        with output.progress("Adopting documents", count if limit is None else min(count, limit)) as bar:
            try:
                adoption.adopt(
                    system,
                    old,
                    Report(total, max_failures, lines, output.note),
                    dry_run=dry_run,
                    overwrite=overwrite,
                    limit=limit,
                    stop=stop,
                    advance=bar.advance,
                )
            except TooManyFailures as many:
                error = str(many)
    facts = {"documents": total.documents, **asdict(total), "dry_run": dry_run, "retries": system.retries}
    output.result(facts | ({} if error is None else {"error": error}), _table(total, time.monotonic() - began, dry_run))
    _end(output, total, count, error)


def _end(output: Output, total: "Adopted", count: int, error: str | None) -> None:
    """Say what was not adopted. Exit with 130 after an interruption, with 1 if documents failed or were skipped."""
    if error is not None:
        output.note(f"rag-outbox: {error}")
    if total.interrupted:
        output.note(f"rag-outbox: interrupted after {total.documents} of {count} documents; run it again to continue")
        raise typer.Exit(130)
    if total.skipped:
        output.note(
            f"rag-outbox: skipped {total.skipped} documents that were changed since they were adopted; --overwrite "
            "replaces them by their old state"
        )
    if total.failed or total.skipped:
        raise typer.Exit(1)


def _table(total: "Adopted", seconds: float, dry_run: bool) -> "Table":
    done = {"valid": total.valid} if dry_run else {"written": total.written, "unchanged": total.unchanged}
    shown = table(
        "documents",
        *(f"#{name}" for name in (*done, "failed", "skipped", "chunks", "vectors read", "files", "seconds")),
    )
    row = (total.documents, *done.values(), total.failed, total.skipped, total.chunks, total.vectors, total.files)
    shown.add_row(*(f"{number:,}" for number in row), f"{seconds:.1f}")
    return shown
