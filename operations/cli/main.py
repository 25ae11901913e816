"""The `rag-outbox` command: arguments, help and exit status; the work is done elsewhere.

Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 found differences.
"""

import json
import logging
import os
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from operations import errors
from operations import settings as settings_module
from operations.cli.output import Output, table
from operations.settings import Settings, SettingsError

app = typer.Typer(
    name="rag-outbox",
    help="Write documents once; Milvus and the object store follow.\n\n"
    "Nothing configured, everything lies in one folder: SQLite, Milvus Lite and a directory of objects. "
    "Start with `rag-outbox demo`, or with `rag-outbox init`.",
    epilog="Settings come from RAG_OUTBOX_… variables or .env; see the README.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MESSAGE_CHARACTERS = 2_000  # an error may quote what somebody sent

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Tag = Annotated[str | None, typer.Option("--business-tag", help="Label; search can filter by it.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("rag-outbox"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a warning for every retry of a request


@app.command(epilog="Example: RAG_OUTBOX_DATA_DIR=/var/lib/rag rag-outbox init")
def init(as_json: Json = False) -> None:
    """Create tables, collection and bucket, and note the embedding model; harmless when they exist."""
    from operations.init import init as run_init

    settings, output = _settings(), Output(json=as_json)
    for difference in run_init(settings):
        output.note(difference)
    facts = {"data_dir": str(settings.data_dir), "embedding_model": settings.embedding_model}
    output.result(
        facts | {"dimension": settings.vector_dimension},
        f"Ready in {settings.data_dir}: vectors of {settings.embedding_model}, {settings.vector_dimension} dimensions.",
    )


@app.command(epilog="Example: rag-outbox write documents.jsonl && rag-outbox run --until-idle")
def write(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE.jsonl", help="One document a line; - reads standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Write documents from JSON lines, a batch a transaction.

    A line at fault stops it: every line before is written, none from it on. Chunks without a vector are embedded.
    """
    from operations import wiring
    from operations.ingest.write import write as run_write

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        if file is sys.stdin.buffer:
            with output.progress("Writing", None) as bar:
                done = run_write(opened, file, Path(), bar.advance)
        else:
            with output.progress("Writing bytes", os.fstat(file.fileno()).st_size) as bar:
                done = run_write(opened, file, Path(file.name).parent, bar.advance)
    output.result(
        asdict(done) | {"retries": opened.retries},
        f"Wrote {done.written} documents with {done.chunks} chunks; {done.unchanged} were unchanged.",
    )


@app.command(epilog="Example: rag-outbox ingest handbook/ notes.md --business-tag hr --delete-missing")
def ingest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Text and Markdown files, or folders of them.")],
    business_tag: Tag = None,
    domain: Annotated[str | None, typer.Option(help="Domain of all these files.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of all these files, for instance en.")] = None,
    delete_missing: Annotated[
        bool, typer.Option("--delete-missing", help="Delete documents whose file left the given folders.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn files into documents: extract, chunk, embed, write. Unchanged files are skipped by their hash."""
    from operations import wiring
    from operations.ingest import files as ingesting

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        files, unsupported = ingesting.find(paths)
        with output.progress("Ingesting files", len(files)) as bar:
            labels = ingesting.Labels(business_tag, domain, language)
            done = ingesting.ingest(opened, files, labels, bar.advance)
        done.unsupported = unsupported
        if delete_missing:
            done.deleted = ingesting.delete_missing(opened, [path for path in paths if path.is_dir()])
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


@app.command(epilog="Example: rag-outbox delete handbook-3f2a90c1d4e5")
def delete(
    doc_ids: Annotated[list[str], typer.Argument(metavar="DOC_ID", help="Documents to delete from every store.")],
    as_json: Json = False,
) -> None:
    """Delete documents from every store, all of them or, when one is unknown, none."""
    from operations import transactions, wiring

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        writer = opened.writer()
        receipts = transactions.run(opened.engine, lambda connection: writer.delete_many(connection, doc_ids))
    deleted = sum(receipt.changed for receipt in receipts)
    output.result(
        {"deleted": deleted, "deleted_before": len(receipts) - deleted},
        f"Deleted {deleted} documents; {len(receipts) - deleted} were deleted before.",
    )


@app.command(epilog='Example: rag-outbox search "how do I mock a server in tests" --limit 3')
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for, in plain words.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many chunks.")] = 5,
    business_tag: Tag = None,
    modal_type: Annotated[str | None, typer.Option("--modal-type", help="Only chunks of this kind.")] = None,
    as_json: Json = False,
) -> None:
    """Find chunks by meaning."""
    from operations import wiring
    from operations.search import search as run_search

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        hits = run_search(opened, text, limit=limit, business_tag=business_tag, modal_type=modal_type)
    lines = [
        f"{hit.score:.3f}  {hit.title}  [{hit.doc_id}]\n       {_shortened(hit.content)}\n       {hit.file or '-'}"
        for hit in hits
    ]
    output.result({"hits": [asdict(hit) for hit in hits]}, *(lines or ["Nothing found."]))


@app.command(epilog="Example: rag-outbox status --json | jq .sinks.milvus")
def status(as_json: Json = False) -> None:
    """Show documents by state, what waits and for how long, and what failed."""
    from operations import wiring
    from operations.status import status as read_status

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        now = read_status(opened)
    sinks = table("sink", "#applied", "#unapplied", "#oldest unapplied", "#failed")
    for name, sink in now.sinks.items():
        age = _age(sink["oldest_unapplied_age_seconds"])
        sinks.add_row(name, str(sink["applied"]), str(sink["unapplied"]), age, str(sink["failed"]))
    output.result(
        asdict(now),
        "Documents: " + (", ".join(f"{count} {state}" for state, count in now.documents.items()) or "none"),
        f"Pending events: {now.pending_events}, the oldest {_age(now.oldest_pending_age_seconds)}",
        sinks,
        *(f"failed: {one['doc_id']} version {one['version']} in {one['sink']}: {one['reason']}" for one in now.failed),
        f"Dead letters: {now.dead_letters}",
    )


@app.command(epilog="Example: rag-outbox run --until-idle --give-up-seconds 60")
def run(
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Stop when everything is applied.")] = False,
    give_up_seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop with an error when a sink fails for so long. [30 with --until-idle, else never]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Relay events to Milvus and the object store, in one process (embedded profile).

    SIGTERM and Ctrl-C finish the batch in flight. One process a data folder.
    """
    from operations import wiring
    from operations.profiles.embedded import run_until_signalled

    output = Output(json=as_json)
    patience = 30.0 if until_idle and give_up_seconds is None else give_up_seconds
    with wiring.opened(_settings()) as opened:
        relayed = run_until_signalled(opened, output, until_idle=until_idle, patience_seconds=patience)
    output.result({"events": relayed}, f"Relayed {relayed} events.")


@app.command(epilog="Example: RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS=kafka:9092 rag-outbox relay")
def relay(as_json: Json = False) -> None:
    """Publish events to Kafka, exactly once and in order per document (services profile).

    Start as many as you like: they share the lanes. SIGTERM and Ctrl-C finish the batch in flight.
    """
    from operations import wiring
    from operations.profiles import services

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        published = services.relay(opened)
    output.result({"published": published, "retries": opened.retries}, f"Published {published} events.")


@app.command(epilog="Example: rag-outbox consume milvus")
def consume(
    sink: Annotated[Literal["milvus", "minio"], typer.Argument(help="The store to keep up to date.")],
    as_json: Json = False,
) -> None:
    """Apply events from Kafka to one store (services profile).

    Start as many as you like for each store. SIGTERM and Ctrl-C finish the batch in flight.
    """
    from operations import wiring
    from operations.profiles import services

    output = Output(json=as_json)
    with wiring.opened(_settings()) as opened:
        consumed = services.consume(opened, sink)
    output.result({"events": consumed, "retries": opened.retries}, f"Applied {consumed} events to {sink}.")


@app.command(epilog="Example: rag-outbox demo --folder demo")
def demo(
    folder: Annotated[Path, typer.Option(help="A new folder for the demo's documents and stores.")] = Path(
        "rag-outbox-demo"
    ),
) -> None:
    """Show the whole pipeline on real documents, and what a crash does to it (nothing)."""
    from operations.demo.demo import demo as run_demo

    run_demo(folder, Output())


def main() -> None:
    """Run the command; every error is one line on stderr, and a bug's traceback is in the file that the line names."""
    try:
        typer.main.get_command(app)(prog_name="rag-outbox")  # app() itself writes into errors; some are frozen
    except SettingsError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:  # noqa: BLE001  # nobody is above; report() keeps the traceback
        _fail(errors.message(error) or errors.report(error), 1)


def _fail(message: str, status: int) -> None:
    if len(message) > _MESSAGE_CHARACTERS:
        message = f"{message[:_MESSAGE_CHARACTERS]} …"
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": message}) + "\n")
    sys.stderr.write(f"rag-outbox: {message}\n")
    sys.exit(status)


def _settings() -> Settings:
    return settings_module.load()


def _shortened(content: str, characters: int = 160) -> str:
    flat = " ".join(content.split())
    return flat if len(flat) <= characters else flat[:characters].rsplit(" ", 1)[0] + " …"


def _age(seconds: Any) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s ago"


if __name__ == "__main__":
    main()
