"""`rag-outbox sinks list`."""

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, table

app = typer.Typer(help="Show the sinks: the stores that consumers keep up to date.", no_args_is_help=True)


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
