"""A picture of the main panels of *Overview*, for docs/monitoring.md: `python -m benchmarks.watching URL --minutes 3`.

URL is that of a Prometheus. The queries are those of the committed dashboard; the drawing is ours, not Grafana's.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import urllib3
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures import INK, PICTURES, set_style
from benchmarks.system import ROOT

BOARD = ROOT / "compose" / "grafana" / "dashboards" / "overview.json"
PANELS = (
    "Offsets that wait",
    "Oldest age",
    "Rate in and out",
    "From the commit to the store",
    "Documents not completed",
    "Without an owner",
)
VARIABLES = {"$__rate_interval": "10s", "$sink": ".+", "$group": ".+"}
COLOURS = ("#2f81f7", "#b0803a", "#3fa66b", "#c4527a", "#8a63d2", INK)
STEP_SECONDS = 1
LOWEST = {"short": 5.0, "s": 1.0}  # the top of an axis whose values are all smaller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a Prometheus, for instance http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    set_style()
    end = time.time()
    panels = {panel["title"]: panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "stat"}
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for place, title in enumerate(PANELS, start=1):
        axes = figure.add_subplot(2, 3, place, title=title)
        draw(axes, panels[title], options.url, end - 60 * options.minutes, end)
    figure.supxlabel("minutes", fontsize=9)
    path = PICTURES / "watching.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None})
    print(path.relative_to(ROOT))


def draw(axes: Axes, panel: dict[str, Any], url: str, start: float, end: float) -> None:
    """All series of a panel, with the names of its legend."""
    colours = iter(COLOURS * 3)
    for target in panel["targets"]:
        for series in query(url, target["expr"], start, end):
            axes.plot(
                *points(series["values"], start),
                label=legend(target["legendFormat"], series["metric"]),
                color=next(colours),
            )
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_ylabel({"short": "", "s": "seconds"}.get(unit, unit.removeprefix("suffix: ")))
    axes.set_ylim(0, max(axes.get_ylim()[1], LOWEST.get(unit, 1.0)))
    axes.set_xlim(0, (end - start) / 60)
    below = (0.5, -0.12)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="upper center", bbox_to_anchor=below, ncols=2)


def points(values: Sequence[tuple[float, str]], start: float) -> tuple[list[float], list[float]]:
    """Minutes since `start`, and values; a gap of the series stays a gap of the line."""
    minutes, numbers = [], []
    for (at, value), (before, _) in zip(values, [values[0], *values], strict=False):
        if at - before > 2 * STEP_SECONDS:
            minutes.append((before + STEP_SECONDS - start) / 60)
            numbers.append(math.nan)
        minutes.append((at - start) / 60)
        numbers.append(float(value))
    return minutes, numbers


def query(url: str, expression: str, start: float, end: float) -> list[dict[str, Any]]:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    fields = {"query": expression, "start": str(start), "end": str(end), "step": str(STEP_SECONDS)}
    answer = json.loads(urllib3.request("GET", f"{url}/api/v1/query_range", fields=fields).data)
    if answer["status"] != "success":
        raise SystemExit(f"{expression}: {answer['error']}")
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


if __name__ == "__main__":
    main()
