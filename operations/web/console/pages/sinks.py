"""Sinks: their state, and how many documents they hold, wait for, lack and refused."""

from litestar import Response

from operations.sinks import summaries
from operations.web.console.rendering import Asked, console_of, render
from schema.database.tables import SINK_STATES


def show_sinks(request: Asked) -> Response[str]:
    return render(request, "sinks.html", sinks=summaries(console_of(request).system), states=SINK_STATES)
