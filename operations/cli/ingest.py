"""`rag-outbox ingest`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations import settings
from operations.cli.interrupt import telling
from operations.cli.options import Json, Tag
from operations.cli.output import Output, count
from operations.errors import UsageError

if TYPE_CHECKING:
    from operations.ingest.files import Ingested
    from operations.ingest.walk import Found

EXAMPLE = "rag-outbox ingest handbook/ --source handbook --business-tag hr --exclude drafts --delete-missing"

STRATEGIES = ("size-overlap", "markdown-headings", "sentence", "semantic", "parent-child")  # a test compares them
_SHOWN = 10  # names of unsupported files


def command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files, or folders of them.")],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name the folder: its documents keep their identity wherever it is mounted. Without a name, the "
            "absolute path of each file identifies its document.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out files and folders of this name or path; may be repeated."),
    ] = None,
    business_tag: Tag = None,
    domain: Annotated[str | None, typer.Option(help="Domain of all these documents.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all these documents, for instance en.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How text becomes chunks: {', '.join(STRATEGIES)}. Without it, texts with headings are cut at these, "
            "others by size.",
        ),
    ] = None,
    delete_missing: Annotated[
        bool,
        typer.Option("--delete-missing", help="Delete documents whose file is no longer in these folders."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Chunk unchanged files again; let --delete-missing delete more than half."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be written, deleted, unchanged and failed.")
    ] = False,
    queue: Annotated[
        bool,
        typer.Option("--queue", help="Only upload the files; `rag-outbox process`, or `run`, does the rest."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write files as documents: extract, chunk, embed, write. Files with an unchanged hash are skipped.

    Text and CSV files are always read; PDFs, Word and Excel files, web pages and images with the extras pdf, office,
    html and ocr of this package.

    A document keeps its labels where no option gives a new one. Hidden files are left out, and so are excluded ones;
    their documents are never deleted. Links to folders are followed once.
    """
    from operations import wiring
    from operations.ingest import files as ingesting
    from operations.ingest import missing
    from operations.ingest.sources import Source
    from operations.ingest.walk import find
    from producer.processing.extract.extract import FileExtractor

    output, done = Output(json=as_json), ingesting.Ingested()
    named = Source(source)
    if source is not None and not (len(paths) == 1 and paths[0].is_dir()):
        raise UsageError("--source names one folder: give it as the only PATH")
    if strategy is not None and strategy not in STRATEGIES:
        raise UsageError(f"--strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    with wiring.open_system(settings.load()) as system, FileExtractor() as extractor:
        found = find(paths, named, exclude or ())
        gone = missing.find_missing(system.engine, named, found, force=force) if delete_missing else []
        done.failed += found.unreadable
        files = sorted(found.files.values(), key=lambda file: file.path)
        labels = ingesting.Labels(business_tag, domain, language)
        options = ingesting.ReadOptions(extractor, strategy, force)
        if queue and not dry_run:
            from operations.ingest.enqueue import enqueue

            with output.progress("Uploading files", len(files)) as bar:
                enqueue(system, files, labels, done, bar.advance, strategy=strategy, force=force)
            missing.delete(system, gone, done.note_deleted)
            _show(output, done, found, is_queued=True)
        elif dry_run:
            with output.progress("Reading files", len(files)) as bar:
                changed = ingesting.plan(system, files, labels, done, bar.advance, options)
            done.written, done.deleted = len(changed), len(gone)
            planned = {"would_write": [str(file.path) for file in changed], "would_delete": gone}
            _show(output, done, found, planned)
        else:
            with (
                telling(lambda: _facts(done, found), lambda: f"; until then: {_summary(done, found)}"),
                output.progress("Ingesting files", len(files)) as bar,
            ):
                ingesting.ingest(system, files, labels, done, bar.advance, options)
                missing.delete(system, gone, done.note_deleted)
            _show(output, done, found)
    if done.failed:
        raise typer.Exit(1)


def _show(
    output: Output,
    done: "Ingested",
    found: "Found",
    planned: "dict[str, list[str]] | None" = None,
    *,
    is_queued: bool = False,
) -> None:
    for reason in done.failed:
        output.note(f"failed: {reason}")
    for reason in done.incomplete:
        output.note(f"incomplete: {reason}")
    for reason in found.skipped:
        output.note(f"skipped: {reason}")
    if planned is not None:
        lines = [f"Dry run: nothing is changed. {_plan(done, found)}"]
    elif is_queued:
        lines = [f"Queued {count(done.queued, 'file')}; {_others(done, found)}"]
    else:
        lines = [f"Wrote {_summary(done, found)}"]
    if found.unsupported:
        more = len(found.unsupported) - _SHOWN
        names = ", ".join(found.unsupported[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"Not of a supported type: {names}")
    for name, paths in (planned or {}).items():
        lines += [f"{name.replace('_', ' ')}: {path}" for path in paths]
    output.result(_facts(done, found) | ({"dry_run": True} | planned if planned is not None else {}), *lines)


def _facts(done: "Ingested", found: "Found") -> dict[str, Any]:
    return asdict(done) | {
        "unsupported": len(found.unsupported),
        "unsupported_files": found.unsupported[:_SHOWN],
        "skipped": found.skipped,
    }


def _summary(done: "Ingested", found: "Found") -> str:
    return (
        f"{count(done.written, 'document')} with {count(done.chunks, 'chunk')} ({done.embedded} embedded); "
        f"{_others(done, found)}"
    )


def _others(done: "Ingested", found: "Found") -> str:
    return (
        f"{done.unchanged} unchanged, {done.deleted} deleted, {len(found.unsupported)} of unsupported types, "
        f"{len(done.failed)} failed."
    )


def _plan(done: "Ingested", found: "Found") -> str:
    return (
        f"{count(done.written, 'document')} to write, {done.deleted} to delete; {done.unchanged} unchanged, "
        f"{len(found.unsupported)} of unsupported types, {len(done.failed)} failed."
    )
