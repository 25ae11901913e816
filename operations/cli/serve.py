"""`rag-outbox serve`."""

from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output
from operations.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from operations.wiring import System

EXAMPLE = "rag-outbox serve --port 9480"

_EXTRA = "install rag-outbox with its extra web: pip install 'rag-outbox[web]'"


def command(
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but a loopback address needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on; 0 takes a free one.")] = 9480,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="The name of a reverse proxy; all then sign in to read. May be repeated.",
        ),
    ] = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Print a new token with its SHA-256, once, and end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve the console: pages that show the state of the system, find documents, and repair them.

    It reads only, unless RAG_OUTBOX_CONSOLE_TOKEN_SHA256 is set: then an operator signs in with the token to act.
    SIGTERM and Ctrl-C end it.
    """
    output = Output(json=as_json)
    if new_token:
        _print_token(output)
        return
    from operations import wiring
    from operations.signals import stop_on_signals

    stop = stop_on_signals()
    with (
        wiring.open_system(settings.load(), wait_until=stop) as system,
        open_console(system, host=host, port=port, names=allowed_host or ()) as address,
    ):
        output.result({"url": address}, f"Console: {address}")
        stop.wait()


def open_console(
    system: "System", *, host: str, port: int, names: "Collection[str]" = ()
) -> "AbstractContextManager[str]":
    """The console as a context. Raises UsageError if its extra is not installed."""
    try:
        from operations.web.console.server import serve_console
    except ImportError as error:
        raise UsageError(f"the console needs {error.name}: {_EXTRA}") from error
    return serve_console(system, host=host, port=port, names=names)


def _print_token(output: Output) -> None:
    from operations.web.console.sessions import make_token

    token, digest = make_token()
    output.result(
        {"token": token, "sha256": digest},
        f"Token, for the operators; it is not shown again: {token}",
        f"{settings.PREFIX}CONSOLE_TOKEN_SHA256={digest}",
    )
