"""The `rag-outbox` command: its subcommands, its help, and one line for every error."""

import logging
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from operations import errors
from operations.cli import (
    adopt,
    consume,
    dead_letters,
    delete,
    demo,
    history,
    ingest,
    init,
    list,
    monitor,
    rebuild,
    reconcile,
    relay,
    resync,
    run,
    search,
    show,
    sinks,
    status,
    write,
)
from operations.cli.output import printable, to_json
from operations.settings import SettingsError

app = typer.Typer(
    name="rag-outbox",
    help="Write documents once; Milvus and the object store follow.\n\n"
    "Without settings, all data is in one folder: SQLite, Milvus Lite and a directory of objects.\n\n"
    "Three commands to start and one to search, or watch `rag-outbox demo`:\n\n"
    "\b\n"
    "    rag-outbox init\n"
    "    rag-outbox ingest PATH…\n"
    "    rag-outbox run --until-idle\n"
    "    rag-outbox search TEXT\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 `history check`, `reconcile` or `rebuild` found "
    "differences, 130 interrupted.",
    epilog="Settings come from RAG_OUTBOX_… variables or a .env file; docs/settings.md lists them. "
    "docs/operations.md explains how to run each process.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UsageError: Any = typer.BadParameter.__base__  # click's own class, or, in newer releases of typer, a copy of it
_MESSAGE_CHARACTERS = 2_000  # an error may quote a whole document


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("rag-outbox"))
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns about every retry of a request


_COMMANDS = (
    *(init, write, ingest, adopt, delete, resync, list, show, search, status),
    *(run, relay, consume, monitor, reconcile, rebuild, demo),
)
for _module in _COMMANDS:
    app.command(_module.__name__.rpartition(".")[2], epilog=f"Example: {_module.EXAMPLE}")(_module.command)
app.add_typer(sinks.app, name="sinks")
app.add_typer(history.app, name="history")
app.add_typer(dead_letters.app, name="dead-letters")


def run_command() -> int:
    """Run a command and return its exit status. Every error is one line on stderr."""
    root = typer.main.get_command(app)  # app() would set attributes on errors; some are frozen
    try:
        status = root.main(prog_name="rag-outbox", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except _UsageError as wrong:
        if type(wrong).__name__ == "NoArgsIsHelpError":  # not exported; the help is printed
            return 2
        return _fail(_describe_usage(wrong), 2)
    except typer.Abort:
        return _fail("aborted", 1)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except (SettingsError, errors.UsageError) as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader of stdout has enough
        return 1
    except Exception as error:  # noqa: BLE001  # nothing is above; report_bug() keeps the traceback
        return _fail(errors.describe(error) or errors.report_bug(error), 1)


def _describe_usage(wrong: Any) -> str:
    """One line, with the command whose help explains the usage."""
    message = " ".join(wrong.format_message().split()).removesuffix(".").replace("Input should be", "must be")
    return message if wrong.ctx is None else f"{message}; see {wrong.ctx.command_path} --help"


def _fail(message: str, status: int) -> int:
    if len(message) > _MESSAGE_CHARACTERS:
        message = f"{message[:_MESSAGE_CHARACTERS]} …"
    if "--json" in sys.argv:
        sys.stdout.write(to_json({"error": message}) + "\n")
    sys.stderr.write(f"rag-outbox: {printable(message)}\n")
    return status
