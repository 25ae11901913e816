"""`rag-outbox status`."""

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, table

if TYPE_CHECKING:
    from operations.status import Status
    from operations.wiring import System

EXAMPLE = "rag-outbox status --json | jq .sinks.milvus"

_WATCH_SECONDS = 2.0


def command(
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show it again every 2 seconds, until Ctrl-C; with --json, one line per reading."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show documents per state, waiting events and their age, lag per sink, and failures."""
    from operations import wiring
    from operations.signals import stop_on_signals
    from operations.status import status as read_status

    output = Output(json=as_json)
    with wiring.open_system(settings.load(), has_limit=False) as system:
        if watch:
            _watch(system, output, stop_on_signals())
        else:
            now = read_status(system)
            output.result(asdict(now), *_lines(now))


def _watch(system: "System", output: Output, stop: threading.Event) -> None:
    """Show the status until `stop` is set; while the database is away, say so."""
    from sqlalchemy.exc import DBAPIError

    from operations.status import status as read_status
    from schema.database.connection import is_transient

    with output.live() as show:
        while not stop.is_set():
            try:
                now = read_status(system)
            except DBAPIError as error:
                if not is_transient(error):
                    raise
                reason = f"metadata database: {error.orig}"
                show({"error": reason}, reason)
            else:
                show(asdict(now), *_lines(now))
            stop.wait(_WATCH_SECONDS)


def _lines(now: "Status") -> list[str | Table]:
    sinks = table("sink", "#applied", "#unapplied", "#oldest unapplied", "#failed")
    for name, sink in now.sinks.items():
        age = _age(sink["oldest_unapplied_age_seconds"])
        sinks.add_row(name, str(sink["applied"]), str(sink["unapplied"]), age, str(sink["failed"]))
    waited = now.oldest_pending_age_seconds
    oldest = "" if waited is None else f", the oldest for {_age(waited)}"
    return [
        "Documents: " + (", ".join(f"{count} {state}" for state, count in now.documents.items()) or "none"),
        f"Pending events: {now.pending_events}{oldest}",
        sinks,
        *(f"failed: {one['doc_id']} version {one['version']} in {one['sink']}: {one['reason']}" for one in now.failed),
        *(
            f"waiting: {one['doc_id']} version {one['version']} for {one['sink']}: {one['reason']}"
            for one in now.failing
        ),
        f"Dead letters: {now.dead_letters}",
        *(
            [f"Tasks: {', '.join(f'{count} {state}' for state, count in now.tasks.items())}"]
            if any(now.tasks.values())
            else []
        ),
        *([_backup_line(place, one) for place, one in now.backups.items()] or ["Backups: none"]),
    ]


def _backup_line(place: str, one: dict[str, Any]) -> str:
    where = "in the bucket of the system" if place == "bucket" else "copied with --to"
    hours = f"{one['age_seconds'] / 3_600:.1f} hours"
    if one["timestamp"] is None:
        return f"Backup {where}: none has ended, {hours} after the first attempt"
    return f"Newest backup {where}: {one['timestamp']}, {hours} old, {one['size_bytes']:,} bytes"


def _age(seconds: Any) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
