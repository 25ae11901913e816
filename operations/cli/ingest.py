"""`rag-outbox ingest`."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations import settings
from operations.cli.interrupt import telling
from operations.cli.options import Json, Tag
from operations.cli.output import Output, count, table
from operations.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from operations.ingest.files import Ingested, Labels, ReadOptions
    from operations.ingest.sources import Source, SourceFile
    from operations.ingest.urls import PageUrl
    from operations.ingest.walk import Found
    from operations.wiring import System

EXAMPLE = "rag-outbox ingest handbook/ --source handbook --business-tag hr --exclude drafts --delete-missing"

STRATEGIES = ("size-overlap", "markdown-headings", "sentence", "semantic", "parent-child")  # a test compares them
MOST_PRIORITY = 1_000
_SHOWN = 10  # names of unsupported files


Paths = Annotated[
    list[str], typer.Argument(metavar="PATH", help="Files, folders of them, and http:// or https:// URLs of pages.")
]
SourceName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name the folder: its documents keep their identity wherever it is mounted. Without a name, the "
        "absolute path of each file identifies its document.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Leave out files and folders of this name or path; may be repeated."),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How text becomes chunks: {', '.join(STRATEGIES)}. Without it, texts with headings are cut at these, "
        "others by size.",
    ),
]


def command(
    paths: Paths,
    source: SourceName = None,
    exclude: Exclude = None,
    business_tag: Tag = None,
    domain: Annotated[str | None, typer.Option(help="Domain of all these documents.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all these documents, for instance en.")] = None,
    strategy: StrategyName = None,
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
    priority: Annotated[
        int | None,
        typer.Option(
            min=-MOST_PRIORITY, max=MOST_PRIORITY, help="With --queue: files of a higher priority are first. [0]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write files as documents: extract, chunk, embed, write. Files with an unchanged hash are skipped.

    Text and CSV files are always read; PDFs, Word and Excel files, web pages and images with the extras pdf, office,
    html and ocr of this package.

    A URL is fetched once, before anything is written, and nothing in the page is followed. Its document is identified
    by the URL, without user, password and tokens.

    A document keeps its labels where no option gives a new one. Hidden files are left out, and so are excluded ones;
    their documents are never deleted. Links to folders are followed once.
    """
    from operations import wiring
    from operations.ingest.files import Labels, ReadOptions
    from operations.ingest.sources import Source
    from operations.ingest.web_pages import split_arguments
    from producer.processing.extract.extract import FileExtractor

    named = Source(source)
    _check_usage(paths, source, strategy)
    if priority is not None and not queue:
        raise UsageError("--priority goes with --queue: without it, all files are read at once")
    files, urls = split_arguments(paths)
    with (
        wiring.open_system(settings.load()) as system,
        FileExtractor() as extractor,
        tempfile.TemporaryDirectory(prefix="rag-outbox-") as folder,
    ):
        options = ReadOptions(extractor, strategy, force)
        run = _Run(system, Labels(business_tag, domain, language), options, Output(json=as_json))
        run.find(files, named, exclude or (), delete_missing=delete_missing)
        run.fetch(urls, Path(folder))
        if dry_run:
            run.plan()
        elif queue:
            run.enqueue(priority)
        else:
            run.ingest()
    if run.done.failed:
        raise typer.Exit(1)


def _check_usage(paths: list[str], source: str | None, strategy: str | None) -> None:
    if source is not None and not (len(paths) == 1 and Path(paths[0]).is_dir()):
        raise UsageError("--source names one folder: give it as the only PATH")
    if strategy is not None and strategy not in STRATEGIES:
        raise UsageError(f"--strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")


class _Run:
    """One call of the command: find files, fetch pages, and then one of `plan`, `enqueue` and `ingest`."""

    def __init__(self, system: "System", labels: "Labels", options: "ReadOptions", output: Output) -> None:
        from operations.ingest.files import Ingested
        from operations.ingest.walk import Found

        self.done = Ingested()
        self._system = system
        self._labels = labels
        self._options = options
        self._output = output
        self._found = Found()
        self._gone: list[str] = []  # documents whose files are gone
        self._files: list[SourceFile] = []

    def find(self, paths: list[Path], source: "Source", exclude: Sequence[str], *, delete_missing: bool) -> None:
        from operations.ingest.missing import find_missing
        from operations.ingest.walk import find

        self._found = find(paths, source, exclude)
        if delete_missing:
            self._gone = find_missing(self._system.engine, source, self._found, force=self._options.force)
        self.done.failed += self._found.unreadable
        self._files = sorted(self._found.files.values(), key=lambda file: file.path)

    def fetch(self, urls: "Sequence[PageUrl]", folder: Path) -> None:
        from operations.ingest.web_pages import fetch_pages

        with self._output.progress("Fetching pages", len(urls)) as bar:
            pages = fetch_pages(urls, folder, bar.advance)
        self.done.failed += pages.failed
        self.done.redirected += pages.redirected
        self._files += pages.files

    def plan(self) -> None:
        from operations.ingest.files import plan

        with self._output.progress("Reading files", len(self._files)) as bar:
            changed = plan(self._system, self._files, self._labels, self.done, bar.advance, self._options)
        self.done.written, self.done.deleted = len(changed), len(self._gone)
        planned = {"would_write": [file.shown for file in changed], "would_delete": self._gone}
        _show(self._output, self.done, self._found, planned)

    def enqueue(self, priority: int | None) -> None:
        from operations.ingest.enqueue import enqueue

        with self._output.progress("Uploading files", len(self._files)) as bar:
            enqueue(
                *(self._system, self._files, self._labels, self.done, bar.advance),
                strategy=self._options.strategy,
                force=self._options.force,
                priority=priority,
            )
        self._delete_gone()
        _show(self._output, self.done, self._found, is_queued=True)

    def ingest(self) -> None:
        from operations.ingest.files import ingest

        done, found = self.done, self._found
        with (
            telling(lambda: _facts(done, found), lambda: f"; until then: {_summary(done, found)}"),
            self._output.progress("Ingesting files", len(self._files)) as bar,
        ):
            ingest(self._system, self._files, self._labels, done, bar.advance, self._options)
            self._delete_gone()
        _show(self._output, done, found)

    def _delete_gone(self) -> None:
        from operations.ingest.missing import delete

        delete(self._system, self._gone, self.done.note_deleted)


def _show(
    output: Output,
    done: "Ingested",
    found: "Found",
    planned: "dict[str, list[str]] | None" = None,
    *,
    is_queued: bool = False,
) -> None:
    for urls in done.redirected:
        output.note(f"redirected: {urls}")
    for reason in done.failed:
        output.note(f"failed: {reason}")
    for reason in done.incomplete:
        output.note(f"incomplete: {reason}")
    for reason in found.skipped:
        output.note(f"skipped: {reason}")
    lines: list[str | Table]
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
    if done.by_type:
        lines.append(_tabulate(done))
    for name, paths in (planned or {}).items():
        lines += [f"{name.replace('_', ' ')}: {path}" for path in paths]
    output.result(_facts(done, found) | ({"dry_run": True} | planned if planned is not None else {}), *lines)


def _tabulate(done: "Ingested") -> "Table":
    """What was written, a row per source type."""
    made = table("type", "#documents", "#chunks", "#tables", "#images")
    for name, written in sorted(done.by_type.items()):
        made.add_row(name, *(str(number) for number in asdict(written).values()))
    return made


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
