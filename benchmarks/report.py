"""What a benchmark prints: a table, and as its last line one JSON object, which is also kept in `results/`."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def arguments(doc: str | None, **numbers: tuple[int, int, str]) -> argparse.Namespace:
    """The command line; a number is (whole run, --quick, help)."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--servers", type=Path, default=Path(".servers"), help="data folder of the native servers")
    parser.add_argument("--quick", action="store_true", help="a short form")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results")
    for name, (whole, _, help_text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, help=f"{help_text} [{whole}]")
    options = parser.parse_args()
    for name, (whole, quick, _) in numbers.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else whole)
    return options


def report(name: str, unit: str, series: Mapping[str, Sequence[float]], *, keep: bool, **facts: Any) -> None:
    """Rounds of each series; the ratio is that of the medians, to the last series."""
    table = Table(title=f"{name}, {unit}")
    for column in ("series", "median", "min", "max", "ratio"):
        table.add_column(column, justify="left" if column == "series" else "right")
    medians = {label: statistics.median(rounds) for label, rounds in series.items()}
    anchor = list(medians.values())[-1]
    for label, rounds in series.items():
        numbers = (medians[label], min(rounds), max(rounds))
        table.add_row(label, *(f"{number:,.1f}" for number in numbers), f"{medians[label] / anchor:.2f}")
    Console(width=100).print(table)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    result = {
        "benchmark": name,
        "unit": unit,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "medians": {label: round(median, 3) for label, median in medians.items()},
        "rounds": {label: [round(number, 3) for number in rounds] for label, rounds in series.items()},
        **facts,
    }
    line = json.dumps(result)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(line + "\n")
    print(line)
