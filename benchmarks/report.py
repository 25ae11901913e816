"""Prints the result of a benchmark: a table, then one line of JSON, which `--keep` appends to `results/`."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def arguments(
    doc: str | None, add: Callable[[argparse.ArgumentParser], None] | None = None, **numbers: tuple[int, int, str]
) -> argparse.Namespace:
    """Parse the command line. Each of `numbers` is (default, default with --quick, help); `add` adds other options."""
    parser = argparse.ArgumentParser(description=doc)
    if add is not None:
        add(parser)
    parser.add_argument("--servers", type=Path, default=Path(".servers"), help="data folder of the native servers")
    parser.add_argument("--quick", action="store_true", help="run a short form")
    parser.add_argument("--keep", action="store_true", help="append the result to benchmarks/results")
    for name, (whole, _, help_text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, help=f"{help_text} [{whole}]")
    options = parser.parse_args()
    for name, (whole, quick, _) in numbers.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else whole)
    return options


def report(
    name: str,
    unit: str,
    series: Mapping[str, Sequence[float]],
    *,
    keep: bool,
    against: Mapping[str, str] | None = None,
    goal: str = "",
    **facts: Any,
) -> None:
    """Print the rounds of each series. A ratio compares medians: with the series in `against`, or with the last one."""
    medians = {label: statistics.median(rounds) for label, rounds in series.items()}
    anchors = dict.fromkeys(series, list(series)[-1]) if against is None else against
    ratios = {label: medians[label] / medians[anchor] for label, anchor in anchors.items()}
    table = Table(title=f"{name}, {unit}", caption=goal and f"goal: {goal}")
    for column in ("series", "median", "min", "max", "ratio"):
        table.add_column(column, justify="left" if column == "series" else "right")
    for label, rounds in series.items():
        numbers = (medians[label], min(rounds), max(rounds))
        table.add_row(label, *(_shown(number) for number in numbers), f"{ratios[label]:.2f}" if label in ratios else "")
    Console(width=100).print(table)
    result = {
        "benchmark": name,
        "unit": unit,
        "goal": goal,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "medians": {label: round(median, 3) for label, median in medians.items()},
        "ratios": {label: round(ratio, 3) for label, ratio in ratios.items()},
        "rounds": {label: [round(number, 3) for number in rounds] for label, rounds in series.items()},
        **facts,
    }
    line = json.dumps(result)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{name}.jsonl").open("a") as file:
            file.write(line + "\n")
    print(line)


def machine() -> dict[str, str | int]:
    """What the figures depend on, without the name of the machine."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory_bytes / 1024**3),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    """The name in /proc/cpuinfo (Linux), or the one that Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _shown(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.2f}"
