"""`rag-outbox run`."""

from contextlib import ExitStack
from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count

EXAMPLE = "rag-outbox run --until-idle --give-up-seconds 60"


def command(
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle",
            help="Stop when all uploaded files are processed and all events applied; fail if a task failed, or a sink "
            "refused an event or still lacks documents.",
        ),
    ] = False,
    give_up_seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="Stop with an error after a sink has failed for this time. [30 with --until-idle, else never]"
        ),
    ] = None,
    console: Annotated[bool, typer.Option("--console", help="Also serve the console, see rag-outbox serve.")] = False,
    console_port: Annotated[
        int, typer.Option("--console-port", min=0, max=65_535, help="With --console: its port; 0 takes a free one.")
    ] = 9480,
    as_json: Json = False,
) -> None:
    """Apply events to Milvus and the object store, and process uploaded files (embedded profile).

    One such process may run per data folder.
    SIGTERM and Ctrl-C end it after the current batch.
    """
    from operations import wiring
    from operations.cli.serve import open_console
    from operations.profiles.embedded import find_pending, run_until_signalled

    output = Output(json=as_json)
    patience = 30.0 if until_idle and give_up_seconds is None else give_up_seconds
    with wiring.open_system(settings.load()) as system, ExitStack() as stack:
        if console:
            own = stack.enter_context(wiring.open_system(system.settings))
            address = stack.enter_context(open_console(own, host="127.0.0.1", port=console_port))
            output.note(f"Console: {address}")
        applied = run_until_signalled(system, output, until_idle=until_idle, patience_seconds=patience)
        waiting = find_pending(system)
    left = f" {count(waiting, 'event')} {'waits' if waiting == 1 else 'wait'}." if waiting else ""
    output.result({"events": applied}, f"Applied {count(applied, 'event')}.{left}")
