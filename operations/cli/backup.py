"""`rag-outbox backup create`, `list`, `verify` and `restore`."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from operations import settings
from operations.cli.backup_output import (
    describe_made,
    describe_orphans,
    describe_restored,
    describe_rows,
    entry_facts,
    entry_row,
    manifest_facts,
    orphan_facts,
    restored_facts,
)
from operations.cli.interrupt import Interrupted
from operations.cli.options import Json
from operations.cli.output import Output, table
from operations.errors import UsageError
from operations.settings import Settings, SettingsError

if TYPE_CHECKING:
    from operations.backup.create import Phase
    from operations.backup.manifest import Manifest
    from schema.object_store.port import ObjectStore

app = typer.Typer(
    help="Back up the metadata database and the files, and restore them.\n\n"
    "Kafka and Milvus are not in a backup: a restore brings them back by refills.",
    no_args_is_help=True,
)

_PLACE = "s3://bucket, http(s)://host:port/bucket or file:///path"
From = Annotated[
    str | None, typer.Option("--from", metavar="URL", help=f"Where the backup is: {_PLACE}. [the bucket of the system]")
]
Timestamp = Annotated[str | None, typer.Argument(metavar="TIMESTAMP", help="Of the backup; the newest if left out.")]


@app.command("create", epilog="Example: rag-outbox backup create --to s3://rag-backups")
def create(
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help=f"Also copy everything, with the objects, to {_PLACE}.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a dump of the database and its manifest to the bucket; with --to, also a copy of the objects elsewhere.

    Writers wait for some milliseconds. Objects that the copy has already are not copied again.
    Exit status: 0 done, 1 failed, 3 objects are damaged and were not copied.
    """
    from operations import wiring
    from operations.backup.create import create as run_create
    from operations.backup.locations import open_location

    output, given = Output(json=as_json), settings.load()
    with _end_on_sigterm(), wiring.open_system(given, has_limit=False) as system:
        target = None if to is None else open_location(given, to, "--to")
        made = run_create(system, target, phase=_phases(output), note=output.note)
    output.result(manifest_facts(made), *describe_made(made))
    if made.copied is not None and made.copied.damaged:
        raise typer.Exit(3)


@app.command("list", epilog="Example: rag-outbox backup list --from s3://rag-backups")
def list_all(place: From = None, as_json: Json = False) -> None:
    """Show every backup with its time, size, rows and history, and those that were interrupted."""
    from operations.backup.catalogue import list_backups

    output, given = Output(json=as_json), settings.load()
    store, where = _open(given, place)
    found = list_backups(store)
    if not found:
        output.result({"place": where, "backups": []}, f"There is no backup in {where}.")
        return
    shown = table("timestamp", "#bytes", "#rows", "#objects", "history", "state", whole=("timestamp", "history"))
    for one in found:
        shown.add_row(*entry_row(one))
    output.result({"place": where, "backups": [entry_facts(one) for one in found]}, f"Backups in {where}:", shown)


@app.command("verify", epilog="Example: rag-outbox backup verify --from s3://rag-backups")
def verify(timestamp: Timestamp = None, place: From = None, as_json: Json = False) -> None:
    """Restore a backup into a database of its own, compare it with its manifest, and drop it again.

    The database is on the server that the settings name. Exit status: 0 whole, 3 something differs.
    """
    from operations.backup.verify import verify as run_verify

    _require_timestamp(timestamp)
    output, given = Output(json=as_json), settings.load()
    store, where = _open(given, place)
    with _end_on_sigterm():
        chosen = _read(store, timestamp)
        found = run_verify(given, store, chosen, phase=_phases(output))
    lines = [f"Restored the backup of {chosen.timestamp} from {where}, and compared it: {describe_rows(chosen)}."]
    lines += [f"Note: {one}" for one in found.notes]
    lines += [f"Different: {one}" for one in found.differences] or ["The backup is whole."]
    output.result(
        {"timestamp": chosen.timestamp, "place": where, "differences": found.differences, "notes": found.notes}, *lines
    )
    if found.differences:
        raise typer.Exit(3)


@app.command("restore", epilog="Example: rag-outbox backup restore --from s3://rag-backups")
def restore(
    timestamp: Timestamp = None,
    place: From = None,
    system_id: Annotated[
        str | None, typer.Option("--system-id", metavar="UUID", help="Refuse the backup of another system.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the refills of the sinks, then reconcile.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Restore a backup into a database without tables; what the sinks hold since then is replaced by refills.

    Stop the writers before. It may be interrupted and run again. docs/runbooks/restore.md has every step.
    Exit status: 0 done and in step, 1 failed, 3 done, and reconcile found differences.
    """
    from operations.backup.restore import prepare_folder
    from operations.backup.restore import restore as run_restore

    _require_timestamp(timestamp)
    expected = _parse_uuid(system_id)
    output, given = Output(json=as_json), settings.load()
    store, where = _open(given, place)
    with _end_on_sigterm():
        chosen = _read(store, timestamp)
        with prepare_folder(given):
            done = run_restore(
                given, store, chosen, copies=place is not None, system_id=expected, phase=_phases(output)
            )
        facts: dict[str, Any] = {"timestamp": chosen.timestamp, "place": where} | restored_facts(done)
        lines = describe_restored(chosen, done, where)
        if not wait:
            output.result(facts, *lines, "Consumers, or rag-outbox run, now refill; then: rag-outbox reconcile --full")
            return
        for line in lines:
            output.note(line)
        is_healthy = _finish(given, output, facts)
    if not is_healthy:
        raise typer.Exit(3)


def _finish(given: Settings, output: Output, facts: dict[str, Any]) -> bool:
    """Wait for the refills, reconcile, and print the result. Returns whether everything is in step."""
    from operations import wiring
    from operations.cli.reconcile import lines
    from operations.reconcile.reconcile import reconcile, scope_of
    from operations.reconcile.repair_plan import plan_repair

    with wiring.open_system(given, has_limit=False) as system:
        _await_refills(system, output)
        with output.progress("Comparing keys", None) as bar:
            report = reconcile(system, scope_of(system, digests=True), advance=bar.advance)
        orphans = orphan_facts(plan_repair(system.engine, report.differences))
    waiting = sum(sum(states.values()) for states in report.to_facts()["waiting"].values())
    output.result(facts | {"reconcile": report.to_facts()} | orphans, *lines(report), *describe_orphans(orphans))
    return report.is_healthy and not waiting


def _await_refills(system: Any, output: Output) -> None:
    import threading

    if system.settings.kafka is None:
        from operations.profiles.embedded import run_until_signalled
        from operations.profiles.unapplied import NotApplied

        try:
            run_until_signalled(system, output, until_idle=True, patience_seconds=None)
        except NotApplied as error:
            output.note(str(error))
        return
    from operations.backup.settling.wait_for_refills import count_waiting, wait_for_refills

    with output.progress("Waiting for refills", count_waiting(system.engine).states) as bar:
        left = wait_for_refills(system.engine, threading.Event(), advance=bar.advance, note=output.note)
    if left.lack:
        output.note(f"{left.lack} documents lack a vector or a file: rag-outbox status names them")


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: with its children, and without what is half written."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Interrupted

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _phases(output: Output) -> "Phase":
    @contextmanager
    def phase(label: str) -> Iterator[Callable[[int], None]]:
        with output.progress(label, None) as bar:
            yield bar.advance

    return phase


def _open(given: Settings, place: str | None) -> "tuple[ObjectStore, str]":
    """The place of the backups, and its name for a person."""
    from operations.backup.locations import open_location
    from operations.wiring import open_object_store

    store = open_object_store(given) if place is None else open_location(given, place, "--from")
    if not store.exists():
        raise SettingsError(f"there is no {place}" if place else f"there is no bucket {given.bucket}: give --from")
    return store, place or store.location("backups").removesuffix("/backups")


def _require_timestamp(timestamp: str | None) -> None:
    from operations.backup import keys

    try:
        keys.parse_timestamp(timestamp or "20000101T000000Z")
    except ValueError as error:
        raise UsageError(str(error)) from None


def _read(store: "ObjectStore", timestamp: str | None) -> "Manifest":
    from operations.backup import catalogue, manifest

    return manifest.read(store, timestamp or catalogue.find_newest(store))


def _parse_uuid(text: str | None) -> str | None:
    try:
        return None if text is None else str(uuid.UUID(text))
    except ValueError:
        raise UsageError(f"--system-id {text!r}: is no UUID") from None
