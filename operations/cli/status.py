"""`rag-outbox status`."""

from dataclasses import asdict
from typing import Any

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, table

EXAMPLE = "rag-outbox status --json | jq .sinks.milvus"


def command(as_json: Json = False) -> None:
    """Show documents per state, waiting events and their age, lag per sink, and failures."""
    from operations import wiring
    from operations.status import status as read_status

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        now = read_status(system)
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


def _age(seconds: Any) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s ago"
