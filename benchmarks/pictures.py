"""SVG pictures of the newest results in benchmarks/results, for docs/performance.md: `python -m benchmarks.pictures`.

Needs matplotlib. The background is transparent; the grey ink is readable on white and on black.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import RESULTS
from benchmarks.system import ROOT

PICTURES = ROOT / "docs" / "pictures"
INK, OURS, OTHER = "#7a828e", "#2f81f7", "#b0803a"
Result = Mapping[str, Any]


def main() -> None:
    set_style()
    PICTURES.mkdir(exist_ok=True)
    for name, draw in PICTURE.items():
        results = RESULTS / f"{name}.jsonl"
        if not results.exists():
            sys.stderr.write(f"no picture of {name}: run python -m benchmarks.{name} --keep\n")
            continue
        newest: Result = json.loads(results.read_text().splitlines()[-1])
        figure = draw(newest)
        about = newest["machine"]
        made = f"{about['cores']} cores, {about['cpu']}, {newest['date']}"
        figure.supxlabel(made, x=0.99, ha="right", fontsize=7)
        path = PICTURES / f"{name}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})
        print(path.relative_to(ROOT))


def set_style() -> None:
    mpl.rcParams.update(
        {
            "svg.hashsalt": "rag-outbox",  # the same result gives the same file
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            **dict.fromkeys(
                ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"),
                INK,
            ),
        }
    )


def bars(result: Result) -> Figure:
    """One bar per series, with the lowest and highest round."""
    labels = list(result["medians"])
    figure = Figure(figsize=(7, 0.9 + 0.45 * len(labels)), layout="constrained")
    axes = figure.add_subplot(title=f"{result['benchmark']}, {result['unit']}")
    for place, label in enumerate(labels):
        median, rounds = result["medians"][label], result["rounds"][label]
        axes.barh(
            place,
            median,
            xerr=[[median - min(rounds)], [max(rounds) - median]],
            color=OTHER if "debezium" in label.lower() else OURS,
            ecolor=INK,
            capsize=3,
        )
        axes.text(max(rounds), place, f"  {median:,.0f}", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(map(max, result["rounds"].values())))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    return figure


def growth(result: Result) -> Figure:
    """The cost of a claim by the length of the backlog."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot(title="Claim, with a long reader open", xlabel="backlog, rows", ylabel="µs per row")
    curve(axes, {_number(label.removeprefix("backlog ")): rounds for label, rounds in result["rounds"].items()})
    axes.set_xscale("log")
    return figure


def scale(result: Result) -> Figure:
    """Rates above, CPU below; relays on the left, consumers on the right."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    panels = ((what, unit) for unit in ("events/s", "CPU µs per event") for what in ("relay", "consumer"))
    for place, (what, unit) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 2, place, xlabel=f"{what}s", ylabel=unit)
        curve(
            axes,
            {
                _number(label.split()[0]): rounds
                for label, rounds in result["rounds"].items()
                if label.endswith(unit) and label.split()[1].startswith(what)
            },
        )
        axes.set_xticks([1, 2, 4])
    return figure


def curve(axes: Axes, points: Mapping[int, list[float]]) -> None:
    """Medians as a line, one dot per round; the axis starts at zero."""
    ordered = sorted(points)
    axes.plot(ordered, [sorted(points[at])[len(points[at]) // 2] for at in ordered], color=OURS, marker="o")
    for at in ordered:
        axes.plot([at] * len(points[at]), points[at], color=INK, marker=".", linestyle="none")
    axes.set_ylim(0, 1.15 * max(map(max, points.values())))
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _number(text: str) -> int:
    return int(text.replace(",", ""))


PICTURE: Mapping[str, Callable[[Result], Figure]] = {"relay": bars, "latency": bars, "growth": growth, "scale": scale}

if __name__ == "__main__":
    main()
