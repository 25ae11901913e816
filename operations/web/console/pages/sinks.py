"""Sinks: their state, and how many documents they hold, wait for, lack and refused."""

from litestar import Response

from operations.sinks import SinkSummary, summaries
from operations.web.console.rendering import Asked, console_of, render
from schema.sinks import MILVUS, kind_of


def show_sinks(request: Asked) -> Response[str]:
    found = summaries(console_of(request).system)
    return render(request, "sinks.html", sinks=found, roles={one.name: _role(one) for one in found})


def _role(one: SinkSummary) -> str | None:
    """Of the instances of Milvus, one serves; the others join, leave, or are kept. None: nothing to say."""
    if one.state != "active":
        return one.state
    if kind_of(one.name) != MILVUS:
        return None
    return "serving" if one.required else "kept"
