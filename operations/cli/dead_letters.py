"""`rag-outbox dead-letters list`, `show`, `replay` and `discard`."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.letter_output import Done, clean, format_table, list_facts, more_facts
from operations.cli.options import Json, parse_utc
from operations.cli.output import Output

if TYPE_CHECKING:
    from operations.dead_letters.letters import Filters, Letter
    from operations.wiring import System

app = typer.Typer(
    help="List, show, replay and discard dead letters: events that Kafka or a store refused for good.\n\n"
    "docs/runbooks/dead-letters-rising.md explains what to do.",
    no_args_is_help=True,
)
Stage = Annotated[str | None, typer.Option(help="Only those of this stage: relay, or the name of a sink.")]
DocId = Annotated[str | None, typer.Option("--doc-id", help="Only those of this document.")]
Since = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=parse_utc, help="Only those refused at this ISO time (UTC) or later."),
]
Until = Annotated[
    datetime | None, typer.Option(metavar="TIME", parser=parse_utc, help="Only those refused before this time.")
]
Text = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Only those whose reason has this text.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Numbers of the list.")]
Every = Annotated[bool, typer.Option("--all", help="Every open dead letter that matches the filters.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


@app.command("list", epilog="Example: rag-outbox dead-letters list --stage milvus --reason dimension")
def list_letters(
    stage: Stage = None,
    doc_id: DocId = None,
    since: Since = None,
    until: Until = None,
    reason: Text = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most this many.")] = 50,
    after: Annotated[int | None, typer.Option(metavar="ID", help="Show the letters older than this one.")] = None,
    every_state: Annotated[
        bool, typer.Option("--all", help="Also those that need no action: superseded, replayed and discarded ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List open dead letters, the newest first.

    A dead letter is superseded when every store holds a newer version of its document, or the document is deleted.
    """
    from operations import wiring
    from operations.dead_letters import letters

    output = Output(json=as_json)
    filters = letters.Filters(stage, doc_id, since, until, reason)
    with wiring.open_system(settings.load()) as system:
        letters.require_stage(system, stage)
        found = letters.list_letters(system, filters, every_state=every_state, limit=limit, after=after)
    following = found[-1].id if len(found) == limit else None
    lines = list(format_table(found)) or ["No dead letters."]
    if following is not None:
        lines.append(f"There may be more: --after {following}")
    output.result({"dead_letters": [list_facts(one) for one in found], "next": following}, *lines)


@app.command("show", epilog="Example: rag-outbox dead-letters show 7 --payload event.bin")
def show(
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="Its number in the list.")],
    payload: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the payload's bytes to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show everything that is known of a dead letter; vectors and files are shortened."""
    from operations import wiring
    from operations.dead_letters import letters
    from operations.dead_letters.describe import describe_payload
    from operations.dead_letters.payload import PayloadGone, read_payload

    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        [letter] = letters.find(system, [letter_id])
        found = list_facts(letter) | more_facts(letter)
        try:
            content = read_payload(system, letter)
        except PayloadGone as error:
            if payload is not None:
                raise
            found["event"] = {"unreadable": str(error)}
        else:
            found |= {"payload_bytes": len(content), "event": describe_payload(letter, content)}
            if payload is not None:
                payload.write_bytes(content)
    shown = {name: value for name, value in found.items() if value is not None and name not in ("headers", "event")}
    lines = [f"{name:15} {clean(str(value))}" for name, value in shown.items()]
    lines += [f"{'header':15} {clean(f'{name}: {value}')}" for name, value in found["headers"].items()]
    lines.append(json.dumps(found["event"], ensure_ascii=False, indent=4))
    output.result(found, *lines)


@app.command("replay", epilog="Example: rag-outbox dead-letters replay 7 8, or --all --stage milvus")
def replay(
    ids: Ids = None,
    every: Every = False,
    stage: Stage = None,
    doc_id: DocId = None,
    since: Since = None,
    until: Until = None,
    reason: Text = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send the documents of dead letters again: each one's current state, as its next version.

    Vectors and files that a store may lack come from the archive and from the dead letter. What cannot be replayed is
    named, and the others go on. Exit status: 1 if one could not be replayed.
    """
    from operations import wiring
    from operations.dead_letters.letters import Filters, require_stage

    done = Done(Output(json=as_json), "replay", "replayed", dry_run)
    filters = Filters(stage, doc_id, since, until, reason)
    _require_selection(ids, every, filters)
    with wiring.open_system(settings.load()) as system:
        require_stage(system, stage)
        versions: dict[str, int | None] = {}  # of the documents that were replayed
        for page in _select(system, ids, filters):
            for some in _group_by_document(page):
                _replay_document(system, some, versions, done)
    done.finish()


@app.command("discard", epilog="Example: rag-outbox dead-letters discard 7 --reason 'the document is not wanted'")
def discard(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the operation log.")],
    ids: Ids = None,
    every: Every = False,
    stage: Stage = None,
    doc_id: DocId = None,
    since: Since = None,
    until: Until = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Close dead letters that need nobody. Their documents stay as they are; the operation log keeps the reason.

    Exit status: 1 if one was not open.
    """
    from operations import wiring
    from operations.dead_letters.discard import discard as discard_letter
    from operations.dead_letters.letters import Filters, NotOpen, require_stage

    if not reason.strip():
        raise typer.BadParameter("must not be empty", param_hint="--reason")
    done = Done(Output(json=as_json), "discard", "discarded", dry_run)
    filters = Filters(stage, doc_id, since, until)
    _require_selection(ids, every, filters)
    with wiring.open_system(settings.load()) as system:
        require_stage(system, stage)
        for page in _select(system, ids, filters):
            for letter in page:
                try:
                    letter.require_open()
                    if not dry_run:
                        discard_letter(system, letter, reason)
                except NotOpen as error:
                    done.fail(letter, str(error))
                else:
                    done.succeed(letter, "")
    done.finish()


def _replay_document(system: "System", some: Sequence["Letter"], versions: dict[str, int | None], done: "Done") -> None:
    """Letters of one document, which is sent once per command."""
    from operations.dead_letters.letters import NotOpen
    from operations.dead_letters.replay import CannotReplay, close_replayed, describe_version, require_replayable
    from operations.dead_letters.replay import replay as replay_letters
    from operations.errors import OperationError
    from producer import ProducerError
    from schema.failures import Permanent, Retryable, StoreMissing

    doc_id = some[0].doc_id
    chosen = []
    for letter in some:
        try:
            require_replayable(letter)
            chosen.append(letter)
        except (NotOpen, CannotReplay) as error:
            done.fail(letter, str(error))
    if not chosen:
        return
    try:
        if not done.dry_run and doc_id in versions:
            close_replayed(system, chosen, versions[doc_id])
        elif not done.dry_run:
            versions[doc_id] = replay_letters(system, chosen)
    except (OperationError, ProducerError, Permanent, Retryable, StoreMissing) as error:
        for letter in chosen:
            done.fail(letter, str(error))
        return
    version = versions.get(doc_id)
    for letter in chosen:
        done.succeed(letter, "" if done.dry_run else describe_version(version), version=version)


def _require_selection(ids: list[int] | None, every: bool, filters: "Filters") -> None:
    if ids and every:
        raise typer.BadParameter("give the numbers of dead letters or --all, not both", param_hint="[ID]…")
    if not ids and not every:
        raise typer.BadParameter("give the numbers of dead letters, or --all", param_hint="[ID]…")
    if ids and any(True for _ in filters.conditions()):
        raise typer.BadParameter("filters go with --all, not with numbers", param_hint="[ID]…")


def _select(system: "System", ids: list[int] | None, filters: "Filters") -> Iterable[list["Letter"]]:
    """In pages."""
    from operations.dead_letters import letters

    return [letters.find(system, ids)] if ids else letters.walk_open(system, filters)


def _group_by_document(found: Sequence["Letter"]) -> list[list["Letter"]]:
    groups: dict[str, list[Letter]] = {}
    for letter in found:
        groups.setdefault(letter.doc_id, []).append(letter)
    return list(groups.values())
