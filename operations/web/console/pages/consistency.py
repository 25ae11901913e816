"""Consistency: the last report of reconcile, a new check, and the repair of what it found."""

from litestar import Response
from litestar.response import Redirect

from operations.reconcile.checkpoints import last_run
from operations.reconcile.repair import TooMuch
from operations.web.console.checks import NothingToRepair
from operations.web.console.failures import FAILURES
from operations.web.console.pages.fields import read_form_text
from operations.web.console.rendering import Asked, console_of, go_to, render, signed_in, texts_of

_SHOWN = 10  # documents that a preview names per action


def show_consistency(request: Asked) -> Response[str]:
    console = console_of(request)
    console.sampler.note_report()  # Health shows the same one
    report, ended_at = last_run(console.system.engine) or (None, None)
    return render(request, "consistency.html", report=report, ended_at=ended_at, check=console.checks.last)


def start_check(request: Asked) -> Redirect:
    session, console = signed_in(request), console_of(request)
    try:
        console.checks.start(console.system_of(session), full=read_form_text(request, "full") is not None)
    except FAILURES as error:
        session.note("failed", str(error))
    return go_to("/consistency")


def stop_check(request: Asked) -> Redirect:
    session, console = signed_in(request), console_of(request)
    console.checks.cancel(console.system_of(session))
    return go_to("/consistency")


def preview_repair(request: Asked) -> Response[str]:
    """What a repair would do. Nothing is changed."""
    console, words = console_of(request), texts_of(request)
    try:
        plan = console.checks.plan(console.system)
    except NothingToRepair as error:
        return render(
            request,
            "error.html",
            status=409,
            title=words("repair.nothing"),
            detail=str(error),
            hint=words("repair.hint"),
        )
    actions = [(action, len(concerned), list(concerned[:_SHOWN])) for action, concerned in plan.describe().items()]
    return render(request, "repair.html", actions=actions, affected=plan.affected, share=plan.share())


def run_repair(request: Asked) -> Redirect:
    session, console, words = signed_in(request), console_of(request), texts_of(request)
    force = read_form_text(request, "force") is not None
    try:
        done = console.checks.repair(console.system_of(session), force=force)
    except TooMuch as error:
        session.note("failed", str(error))
        return go_to("/consistency/repair")
    except FAILURES as error:
        session.note("failed", str(error))
    else:
        text = ", ".join(f"{action}: {count}" for action, count in sorted(done.items()) if count)
        session.note("done", words("repair.done", what=text or "–"))
    return go_to("/consistency")
