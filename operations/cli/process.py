"""`rag-outbox process`."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from operations import settings
from operations.cli.options import Json
from operations.cli.output import Output
from operations.errors import UsageError

if TYPE_CHECKING:
    from producer.processing.tasks.queue import Task

EXAMPLE = "rag-outbox process --workers 4"

_STEPS = ("extract", "chunk", "embed", "sync")


def command(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP", help=f"Run only this step: {', '.join(_STEPS)}; may be repeated."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many tasks to run at once in this process.")] = 1,
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle", help="Stop when no task of its steps or of earlier steps is left; fail if one failed."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Work on uploaded files: extract their text, chunk it, embed the chunks, and write the documents.

    Any number of these processes may run, on any number of machines. A worker that dies loses no task: after its lease
    (RAG_OUTBOX_TASK_LEASE_SECONDS) another one takes it.
    SIGTERM and Ctrl-C end the process; a step that takes longer than 10 seconds is queued again.
    """
    import logging

    from operations import wiring
    from operations.monitoring.process import Process
    from operations.processing import TaskMetrics, work
    from operations.signals import end_in_time, stop_on_signals

    if wrong := sorted(set(only or ()) - set(_STEPS)):
        raise UsageError(f"--only {wrong[0]!r}: choose one of {', '.join(_STEPS)}")
    output, stop, ended = Output(json=as_json), stop_on_signals(), Counter[str]()
    with wiring.open_system(settings.load(), wait_until=stop) as system:
        logging.getLogger("operations").setLevel(logging.INFO)
        process = Process(system, "worker")
        metrics = TaskMetrics(process.registry)

        def report(task: "Task", status: str, seconds: float) -> None:
            ended[status] += 1
            metrics.note(task, status, seconds)
            bar.advance(1)

        end_in_time(stop)
        with process.serve(), output.progress("Running tasks", None) as bar:
            work(
                system,
                stop,
                threads=workers,
                task_types=only or _STEPS,
                until_idle=until_idle,
                report=report,
                progress=process.metrics.note_progress,
            )
    summary = ", ".join(f"{number} {status}" for status, number in sorted(ended.items())) or "none"
    output.result({"tasks": dict(ended)}, f"Tasks: {summary}.")
    if until_idle and ended["failed"]:
        raise typer.Exit(1)
