"""`rag-outbox sinks list`, `add` and `remove`."""

import sys
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count, table
from operations.cli.watch import show_fill

app = typer.Typer(help="Show, add and remove sinks: the stores that consumers keep up to date.", no_args_is_help=True)


@app.command("list", epilog="Example: rag-outbox sinks list --json | jq '.sinks[] | select(.absent > 0)'")
def list_sinks(as_json: Json = False) -> None:
    """Show every sink with its state and its documents: applied, pending, absent and failed.

    A document is completed when every required sink holds it. Absent documents are refilled by the sink's consumer.
    """
    from operations import sinks, wiring

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        found = sinks.summaries(system)
    shown = table("sink", "required", "state", "#applied", "#pending", "#absent", "#failed")
    for one in found:
        counts = (str(one.documents[state]) for state in ("applied", "pending", "absent", "failed"))
        shown.add_row(one.name, "yes" if one.required else "no", one.state, *counts)
    facts = [{"name": one.name, "required": one.required, "state": one.state, **one.documents} for one in found]
    output.result({"sinks": facts}, shown)


@app.command("add", epilog="Example: rag-outbox sinks add fulltext --required")
def add_sink(
    name: Annotated[str, typer.Argument(help="A sink of an installed package.")],
    required: Annotated[
        bool | None,
        typer.Option(
            "--required/--optional",
            help="Whether a document is completed only when the sink holds it. [as it is; a new sink is optional]",
        ),
    ] = None,
    give_up_seconds: Annotated[
        float | None, typer.Option(min=0, help="Fail when nothing moves for this time. [never]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a sink join: create its store, and fill it with all documents while writes go on.

    In the services profile its consumers fill it: start rag-outbox consume NAME.
    Ctrl-C is harmless: the same command continues.
    """
    from operations import sinks, wiring
    from operations.rebuild.plugin import add

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system, show_fill(output, name, give_up_seconds) as watch:
        progress = add(system, name, required=required, watch=watch)
        found = sinks.require_registered(sinks.read_all(system), name)
    facts = {"name": name, "required": found.required, "state": found.state, "documents": progress.total}
    role = "required" if found.required else "optional"
    output.result(facts, f"{name} is {found.state} and {role}; it holds {progress.applied:,} documents.")


@app.command("remove", epilog="Example: rag-outbox sinks remove milvus-2 --yes")
def remove_sink(
    name: Annotated[str, typer.Argument(help="A sink that is not required; `sinks list` shows them.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a collection of Milvus is dropped.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a sink that is not required, and drop the collection of an instance of Milvus.

    The store of another package's sink stays as it is. Interrupted, the same command continues.
    """
    from operations import wiring
    from operations.errors import UsageError
    from operations.rebuild.collections import collection_of
    from operations.rebuild.remove import remove, require_removable
    from schema.sinks import MILVUS

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        found = require_removable(system, name)
        is_dropped = found.kind == MILVUS
        if is_dropped and not yes:
            collection = collection_of(system, name)
            if not sys.stdin.isatty():
                raise UsageError(f"this drops the collection {collection}: repeat it with --yes")
            typer.confirm(f"Drop the collection {collection} of Milvus?", abort=True, err=True)
        removed = remove(system, name)
    facts = {"name": name, "documents": removed.documents, "dropped": is_dropped, "left": removed.left}
    store = "its collection is dropped" if is_dropped else "its store stays as it is"
    lines = [f"{name} is removed, with {count(removed.documents, 'state')} of documents; {store}."]
    output.result(facts, *lines, *([removed.left] if removed.left else []))
