"""`rag-outbox history list`, `check` and `new`."""

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from operations import settings
from operations.cli.options import Json, parse_utc
from operations.cli.output import Output
from operations.settings import PREFIX, SettingsError

app = typer.Typer(
    help="Show, check and start histories: runs of commits on one server.\n\n"
    "A failover to a replica that lost commits starts a new history by itself; a restore on the same server does not.",
    no_args_is_help=True,
)
_DOCUMENTS_SHOWN = 20


@app.command("list", epilog="Example: rag-outbox history list")
def list_histories(as_json: Json = False) -> None:
    """Show every history: its number, id, server and reason, and when it was started and checked."""
    from operations import history, wiring

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        found = history.list_histories(system.engine)
    lines = [_line("number", "id", "server", "started", "checked", "reason")]  # too wide for a table
    for one in found:
        checked = "not yet" if one.checked_at is None else _time(one.checked_at)
        server = one.server_uuid or "-"
        lines.append(_line(str(one.number), one.history_id, server, _time(one.started_at), checked, one.reason))
    output.result({"histories": [_facts(one) for one in found]}, *lines)


@app.command("check", epilog="Example: rag-outbox history check --since 2026-05-01T00:00:00")
def check(
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            parser=parse_utc,
            help="Read only events published since this ISO time (UTC); the whole topic if left out.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search the topic for what a failover or a restore lost, and let the sinks refill those documents.

    It finds documents with events of lost histories, and documents whose marks were lost. A relay does it by itself
    after each new history. It disturbs no consumer.
    Exit status: 0 nothing was found, 3 documents were found.
    """
    from operations import history, wiring
    from operations.topic import TopicReader

    output = Output(json=as_json)
    with wiring.open_system(settings.load(), has_limit=False) as system:
        if system.settings.kafka is None:
            raise SettingsError(
                f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS is not set: without Kafka there is no topic to check; "
                "after a new history, rag-outbox run refills every document"
            )
        reader = TopicReader(system.names, system.settings.kafka)
        with output.progress("Reading events", None) as bar:
            at = None if since is None else since.replace(tzinfo=UTC)
            report = history.check(system.engine, reader, since=at, advance=bar.advance)
    found, unmarked = sorted(report.documents), sorted(report.unmarked)
    facts = {
        "events": report.events,
        "unreadable": report.unreadable,
        "lost_events": report.lost_events,
        "documents": found,
        "unmarked": unmarked,
    }
    lines = describe_found(report.events, report.lost_events, found)
    if unmarked:
        lines.append(
            f"{len(unmarked)} {'mark was' if len(unmarked) == 1 else 'marks were'} lost; a refill replaces them."
        )
    output.result(facts, *lines)
    if found or unmarked:
        raise typer.Exit(3)


@app.command("new", epilog="Example: rag-outbox history new --reason 'restored the backup of Sunday'")
def new(
    reason: Annotated[str, typer.Option(help="Why, for `history list`.")] = "a restore",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Start a new history: after a restore on the same server, before the first write.

    Versions and outbox ids that were used after the backup are used again; only the history tells them apart.
    Nothing is removed. A relay then checks the topic, and documents that lost a version are refilled. Without Kafka,
    stop rag-outbox run first; it refills all documents when it starts again.
    """
    from operations import history, wiring
    from operations.profiles.embedded import hold_lock

    output = Output(json=as_json)
    if not yes:
        typer.confirm(
            "Start a new history? Do it once, after a restore and before the first write.", abort=True, err=True
        )
    with wiring.open_system(settings.load()) as system:
        has_topic = system.settings.kafka is not None
        # `run` looks for a new history only when it starts, so none may begin while it works.
        with nullcontext() if has_topic else hold_lock(system.settings.data_dir):
            history_id = history.start(system.engine, reason)
    follows = "A relay now checks the topic." if has_topic else "rag-outbox run now refills every document."
    output.result({"history_id": history_id}, f"Started history {history_id}.", follows)


def describe_found(events: int, lost: int, documents: list[str]) -> list[str]:
    """What a check says to a person: it read `events`, `lost` of them belong to lost histories of `documents`."""
    read = f"Read {events} event{'' if events == 1 else 's'}."
    if not documents:
        return [f"{read} None belongs to a lost history."]
    belong = "1 belongs to a lost history" if lost == 1 else f"{lost} belong to lost histories"
    concerned = "1 document" if len(documents) == 1 else f"{len(documents)} documents"
    lines = [f"{read} {belong}; {concerned} will be replaced in every sink:"]
    lines += [f"    {doc_id}" for doc_id in documents[:_DOCUMENTS_SHOWN]]
    if len(documents) > _DOCUMENTS_SHOWN:
        lines.append(f"    and {len(documents) - _DOCUMENTS_SHOWN} more; --json names all")
    return lines


def _line(number: str, history_id: str, server: str, started: str, checked: str, reason: str) -> str:
    return f"{number:>6}  {history_id:36}  {server:36}  {started:19}  {checked:19}  {reason}"


def _time(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}"


def _facts(one: Any) -> dict[str, Any]:
    from operations.documents.listing import utc_text

    return {
        "number": one.number,
        "id": one.history_id,
        "server": one.server_uuid,
        "reason": one.reason,
        "started": utc_text(one.started_at),
        "checked": utc_text(one.checked_at),
    }
