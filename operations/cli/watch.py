"""How a command shows that a sink is being filled: a bar on a terminal, else one line per 30 seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from operations.cli.output import Output

if TYPE_CHECKING:
    from operations.rebuild.fill import Watch
    from operations.rebuild.states import Progress

_LINE_SECONDS = 30.0


@contextmanager
def show_fill(output: Output, sink: str, give_up_seconds: float | None) -> Iterator["Watch"]:
    """Show progress until the context ends."""
    from operations.rebuild.fill import Watch

    began = shown_at = time.monotonic()
    first: int | None = None
    with output.progress(f"Filling {sink}", None) as bar:

        def show(progress: "Progress") -> None:
            nonlocal first, shown_at
            first = progress.applied if first is None else first
            bar.move(progress.applied, progress.total)
            now = time.monotonic()
            if now - shown_at >= _LINE_SECONDS:
                shown_at = now
                rate = (progress.applied - first) / (now - began)
                output.note(f"{sink}: {progress.applied:,} of {progress.total:,} documents, {rate:,.0f} per second")

        yield Watch(output.note, show, give_up_seconds)
