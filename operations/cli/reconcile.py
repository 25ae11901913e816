"""`rag-outbox reconcile`."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count, table

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from operations.reconcile.report import Report
    from operations.reconcile.scope import Scope
    from operations.wiring import System

EXAMPLE = "rag-outbox reconcile --json | jq .kinds"

_SHOWN = 20
_PLANNED = 10  # documents that a preview names per action


def command(
    sample: Annotated[
        float | None, typer.Option("--sample", min=0.0001, max=1.0, help="Compare this share of the keys: 0.01 is 1 %.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Also ask for the SHA-256 of every file, and search for doubled rows."),
    ] = False,
    vectors: Annotated[bool, typer.Option("--vectors", help="Also compare all vectors with the archive.")] = False,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", metavar="SINK", help="Compare this sink; may be repeated. [all that are in use]"),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=0, help="At most this many keys per second; 0: no limit.")] = 0,
    stuck_after: Annotated[
        float, typer.Option("--stuck-after", min=1, help="Seconds after which a waiting document or event is stuck.")
    ] = 3_600,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the last run if it was interrupted and had the same options.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option("--every", min=1, help="Run at this interval, in seconds, until SIGTERM, with metrics."),
    ] = None,
    wants_repair: Annotated[bool, typer.Option("--repair", help="Show what a repair would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --repair: do it.")] = False,
    share: Annotated[
        float, typer.Option("--share", min=0, max=1, help="A repair of more documents than this share needs --force.")
    ] = 0.1,
    force: Annotated[bool, typer.Option("--force", help="With --repair --yes: ignore --share.")] = False,
    as_json: Json = False,
) -> None:
    """Compare MySQL with every sink, both ways, list the differences, and repair them.

    Every difference is looked at a second time, so it runs during writes. Only --repair --yes changes anything.
    Exit status: 0 healthy, or every difference is being repaired; 3 differences are left.
    """
    from operations import wiring
    from operations.reconcile.reconcile import scope_of
    from operations.signals import stop_on_signals

    _check(every, wants_repair=wants_repair, acts=yes or force)
    output = Output(json=as_json)
    digests = full or sample is not None
    options = {"sample": sample or 1.0, "digests": digests, "vectors": vectors, "stuck_seconds": stuck_after}
    with wiring.open_system(settings.load()) as system:
        find_scope = partial(scope_of, system, sink, **options)
        scope = find_scope()
        stop = stop_on_signals()
        if every is not None:
            _compare_every(every, system, find_scope, stop, rate, output)
            return
        report = _compare_once(system, scope, stop, rate, output, resume=resume)
        facts, shown, is_done = report.to_facts(), lines(report), report.is_healthy
        if wants_repair and not is_done:
            is_done = _repair(system, report, facts, shown, share=share, force=force, acts=yes)
    output.result(facts, *shown)
    if not is_done:
        raise typer.Exit(3)


def _compare_every(
    seconds: float,
    system: "System",
    find_scope: "Callable[[], Scope]",
    stop: "threading.Event",
    rate: float,
    output: Output,
) -> None:
    from operations.reconcile.periodically import run_periodically

    logging.getLogger("operations").setLevel(logging.INFO)
    runs = run_periodically(system, find_scope, seconds, stop, rate=rate)
    output.result({"runs": runs}, count(runs, "run"))


def _compare_once(
    system: "System", scope: "Scope", stop: "threading.Event", rate: float, output: Output, *, resume: bool
) -> "Report":
    from operations.reconcile.reconcile import reconcile

    with output.progress("Comparing keys", None) as bar:
        return reconcile(system, scope, rate=rate, resume=resume, stop=stop, advance=bar.advance)


def _repair(
    system: "System",
    report: "Report",
    facts: dict[str, object],
    shown: list[str | Table],
    *,
    share: float,
    force: bool,
    acts: bool,
) -> bool:
    """Add to `facts` and `shown` what a repair would do, or what it did. Returns whether it repairs all differences."""
    from operations.reconcile.repair import repair
    from operations.reconcile.repair_plan import plan_repair

    plan = plan_repair(system.engine, report.differences)
    facts["plan"] = {action: list(concerned) for action, concerned in plan.describe().items()}
    shown += _plan_lines(plan.describe(), acts=acts)
    if not acts:
        return False
    facts["repaired"] = repair(system.engine, system.store, plan, system.operator, share=share, force=force)
    shown.append("Repaired in MySQL. Consumers, or rag-outbox run, now refill; then reconcile again.")
    return not plan.left and report.findings.total <= len(report.differences)


def _check(every: float | None, *, wants_repair: bool, acts: bool) -> None:
    if acts and not wants_repair:
        raise typer.BadParameter("--yes and --force go with --repair")
    if every is not None and wants_repair:
        raise typer.BadParameter("--every only reports: repair in a run of its own")


def _plan_lines(plan: "Mapping[str, Sequence[str]]", *, acts: bool) -> list[str]:
    shown = ["", "Repair:" if acts else "A repair would (--yes does it):"]
    for action, concerned in plan.items():
        more = f" and {len(concerned) - _PLANNED} more" if len(concerned) > _PLANNED else ""
        shown.append(f"    {action}: {len(concerned)}: {', '.join(concerned[:_PLANNED])}{more}")
    return shown


def lines(report: "Report") -> list[str | Table]:
    """The report for a person."""
    facts = report.to_facts(_SHOWN)
    shown: list[str | Table] = []
    compared = ", ".join(f"{count:,} in {store}" for store, count in facts["compared"].items()) or "nothing"
    share = "" if report.scope.sample >= 1 else f" (a sample of {report.scope.sample:.2%})"
    shown.append(f"Compared {compared}{share} in {report.seconds:.1f} s.")
    for sink, states in facts["waiting"].items():
        waiting = ", ".join(f"{count} {state}" for state, count in states.items())
        shown.append(f"Not compared in {sink}, because they wait for it: {waiting}")
    if report.findings.suspects:
        shown.append(f"Suspects, which the sinks refill by themselves: {report.findings.suspects}")
    if facts["kinds"]:
        kinds = table("store", "kind", "#count")
        for one in facts["kinds"]:
            kinds.add_row(one["store"], one["kind"], f"{one['count']:,}")
        shown.append(kinds)
        shown += [f"{one['kind']} in {one['store']}: {_name(one)}: {one['detail']}" for one in facts["first"]]
        if report.findings.counts.total() > _SHOWN:
            shown.append(f"and {report.findings.counts.total() - _SHOWN:,} more")
    found = facts["differences"]
    shown.append(
        "Healthy: no differences."
        if report.is_healthy
        else f"Not healthy: {found:,} difference{'' if found == 1 else 's'}."
    )
    return [*shown, *(f"→ {line}" for line in facts["recommendations"])]


def _name(difference: dict[str, str]) -> str:
    doc_id, key = difference["doc_id"], difference["key"]
    return key if doc_id in ("", key) else f"{doc_id}, {key}"
