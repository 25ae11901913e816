"""`rag-outbox retention`."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from operations import settings
from operations.cli.options import Json, require_unicode
from operations.cli.output import Output, table

if TYPE_CHECKING:
    from operations.retention.erase.erase import Erasure
    from operations.retention.policy import Policy
    from operations.wiring import System

EXAMPLE = "rag-outbox retention --dry-run, or: rag-outbox retention --erase handbook --yes"

_KINDS = {
    "operation_logs": "payloads of the operation log",
    "dead_letters": "dead letters, emptied",
    "processing_tasks": "ended tasks",
    "archive_objects": "objects of the archive, removed or rewritten",
}


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop after this time; the next run continues. [no limit]")
    ] = None,
    erase: Annotated[
        str | None,
        typer.Option(metavar="DOC_ID", help="Instead: remove, at once, the text that this document no longer has."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --erase: do it, instead of showing what it would do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what is older than the settings RAG_OUTBOX_RETENTION_…_DAYS.

    `monitor`, `consume minio` and `run` do so every hour. docs/retention.md says what goes when, and what an erase
    cannot reach. Exit status: 1 if a document cannot be erased now; the message says what helps.
    """
    from operations import wiring

    require_unicode(erase=erase)
    if erase is not None and (dry_run or seconds is not None):
        raise typer.BadParameter("--dry-run and --seconds do not go with --erase, which only shows without --yes")
    if yes and erase is None:
        raise typer.BadParameter("--yes goes with --erase")
    output = Output(json=as_json)
    with wiring.open_system(settings.load(), has_limit=False) as system:
        if erase is not None:
            _erase(system, erase, output, acts=yes)
        elif dry_run:
            _preview(system, output)
        else:
            _run(system, output, seconds)


def _preview(system: "System", output: Output) -> None:
    from operations.documents.listing import utc_text

    shown = table("policy", "#kept for days", "#would remove", "oldest", "#blocked", "note")
    facts: dict[str, Any] = {}
    for name, days, policy in _policies(system):
        found = None if policy is None else policy.preview()
        if found is None:
            facts[name] = {"days": 0}
            shown.add_row(name, "for ever", "-", "-", "-", "")
            continue
        facts[name] = {
            "days": days,
            "count": found.count,
            "oldest": utc_text(found.oldest),
            "blocked": found.blocked,
            "note": found.note,
        }
        oldest = "-" if found.oldest is None else f"{found.oldest:%Y-%m-%d %H:%M}Z"
        shown.add_row(name, str(days), str(found.count), oldest, str(found.blocked), found.note)
    output.result({"dry_run": True, "policies": facts}, shown)


def _run(system: "System", output: Output, seconds: float | None) -> None:
    from operations.retention.run import run_policy
    from operations.signals import stop_on_signals

    stop = stop_on_signals()
    began = time.monotonic()
    shown = table("policy", "#kept for days", "#removed", "#blocked", "#seconds", "")
    facts: dict[str, Any] = {}
    with output.progress("Removing", None) as bar:
        for name, days, policy in _policies(system):
            left = None if seconds is None else seconds - (time.monotonic() - began)
            if policy is None or stop.is_set() or (left is not None and left <= 0):
                facts[name] = {"days": days, "complete": False} if days else {"days": 0}
                shown.add_row(name, str(days) if days else "for ever", "-", "-", "-", "not begun" if days else "")
                continue
            ran = run_policy(system.engine, policy, stop, seconds=left, advance=bar.advance)
            facts[name] = {
                "days": days,
                "removed": ran.removed,
                "blocked": ran.blocked,
                "seconds": round(ran.seconds, 3),
                "complete": ran.is_complete,
            }
            end = "" if ran.is_complete else "not at its end: run it again"
            shown.add_row(name, str(days), str(ran.removed), str(ran.blocked), f"{ran.seconds:.1f}", end)
    output.result({"dry_run": False, "policies": facts}, shown)


def _erase(system: "System", doc_id: str, output: Output, *, acts: bool) -> None:
    from operations.retention.erase import erase

    done = erase.erase(system, doc_id) if acts else erase.preview(system, doc_id)
    output.result(_erasure_facts(done, acts=acts), *_erasure_lines(done, acts=acts))


def _erasure_facts(done: "Erasure", *, acts: bool) -> Mapping[str, Any]:
    return {
        "doc_id": done.document.doc_id,
        "version": done.document.version,
        "deleted": done.document.is_deleted,
        "erased": acts,
        "counts": done.counts,
        "cannot_reach": [{"place": one.place, "how_long": one.how_long} for one in done.limits],
    }


def _erasure_lines(done: "Erasure", *, acts: bool) -> list[str | Table]:
    what = "deleted" if done.document.is_deleted else f"living, version {done.document.version}"
    verb = "Erased" if acts else "Would erase"
    counts = table("#number", "what")
    if done.document.is_deleted:
        counts.add_row("1", "row of the document, emptied; it stays as a tombstone")
    for kind, number in done.counts.items():
        counts.add_row(str(number), _KINDS[kind])
    limits = table("where it cannot reach", "how long it stays there")
    for one in done.limits:
        limits.add_row(one.place, one.how_long)
    lines: list[str | Table] = [f"{verb} of {done.document.doc_id} ({what}):", counts, "", limits]
    if not acts:
        lines.append("Nothing is erased yet: repeat it with --yes.")
    return lines


def _policies(system: "System") -> "list[tuple[str, int, Policy | None]]":
    """Name and days of every policy; None if it keeps everything."""
    from operations.retention.policy import NAMES
    from operations.retention.run import policies_of_database, policies_of_store

    engine, given = system.engine, system.settings
    made = {policy.name: policy for policy in policies_of_database(engine, given)}
    if given.retention_archives_days:
        made |= {policy.name: policy for policy in policies_of_store(engine, system.store, given)}
    return [(name, getattr(given, f"retention_{name}_days"), made.get(name)) for name in NAMES]
