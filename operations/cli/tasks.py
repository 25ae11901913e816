"""`rag-outbox tasks list` and `rag-outbox tasks retry`."""

from typing import Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output, count, table
from operations.errors import UsageError

app = typer.Typer(help="Show the tasks of the task queue, and repeat failed ones.", no_args_is_help=True)

_STATES = ("queued", "running", "completed", "failed", "superseded")
_REASON_CHARACTERS = 80


@app.command("list", epilog="Example: rag-outbox tasks list --status failed")
def list_tasks(
    status: Annotated[
        str, typer.Option(metavar="STATUS", help=f"Tasks in this state: {', '.join(_STATES)}.")
    ] = "failed",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many tasks to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Count the tasks by step and state, and show the newest tasks in one state with their reasons."""
    from operations import tasks, wiring

    if status not in _STATES:
        raise UsageError(f"--status {status!r}: choose one of {', '.join(_STATES)}")
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        counts, found = tasks.count_tasks(system), tasks.list_tasks(system, status, limit)
    counted = table("step", *(f"#{state}" for state in _STATES))
    for step, by_state in counts.items():
        counted.add_row(step, *(str(by_state[state]) for state in _STATES))
    shown = table("task", "step", "document", "#priority", "#attempts", "reason")
    for one in found:
        reason = (one["error_message"] or "")[:_REASON_CHARACTERS]
        numbers = str(one["priority"]), str(one["attempt"])
        shown.add_row(one["task_id"], one["task_type"], one["doc_id"], *numbers, reason)
    output.result({"counts": counts, "tasks": found}, counted, *([shown] if found else []))


@app.command("retry", epilog="Example: rag-outbox tasks retry --all")
def retry(
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="TASK_ID", help="Failed tasks.")] = None,
    all_failed: Annotated[bool, typer.Option("--all", help="Every failed task.")] = False,
    as_json: Json = False,
) -> None:
    """Queue failed tasks again, from the step that failed."""
    from operations import tasks, wiring

    if bool(task_ids) == all_failed:
        raise UsageError("give TASK_IDs, or --all")
    output = Output(json=as_json)
    with wiring.open_system(settings.load()) as system:
        queued, others = tasks.retry(system, task_ids)
    for task_id in others:
        output.note(f"not a failed task: {task_id}")
    output.result({"queued": queued, "not_failed": others}, f"Queued {count(len(queued), 'task')}.")
    if others:
        raise typer.Exit(1)
