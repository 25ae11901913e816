"""What every drill shares: its options, its servers, and the table that it prints and, with `--keep`, writes down."""

import argparse
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import report, system
from benchmarks.system import ROOT
from tests.support.servers import VARIABLE, parsed

RESULTS = Path(__file__).parent / "results"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--servers", type=Path, default=Path(".servers"), help=f"data folder of the native servers; {VARIABLE} wins"
    )
    parser.add_argument("--keep", action="store_true", help="write the result to tests/drills/results/")


def arguments_of(options: argparse.Namespace) -> list[str]:
    """The options of `add_options`, for another command."""
    return ["--servers", str(options.servers), *(["--keep"] if options.keep else [])]


def read_options(doc: str | None, **numbers: tuple[int, str]) -> argparse.Namespace:
    """Parse the command line of a drill. Each of `numbers` is (default, help)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    for name, (default, help_text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help_text} [{default}]")
    add_options(parser)
    return parser.parse_args()


def find_servers(options: argparse.Namespace) -> dict[str, str]:
    """The variables of the servers: those in the file RAG_OUTBOX_TEST_SERVERS, or native ones, started if need be."""
    if path := os.environ.get(VARIABLE):
        return {name: value for name, value in parsed(Path(path).read_text()).items() if "_TEST_" not in name}
    return system.servers(options.servers)


def show(name: str, facts: Mapping[str, str], *, succeeded: bool, keep: bool) -> int:
    """Print the facts and, if `keep`, write them to results/<name>.md. Returns the exit status of the drill."""
    table = Table(title=f"{name}: {'succeeded' if succeeded else 'FAILED'}", show_header=False)
    for fact in facts.items():
        table.add_row(*fact)
    Console(width=120).print(table)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(_page(name, facts, succeeded=succeeded))
    return int(not succeeded)


def _page(name: str, facts: Mapping[str, str], *, succeeded: bool) -> str:
    machine = report.machine()
    lines = [
        f"# Last result of the drill `{name}`",
        "",
        f"{datetime.now(UTC).date().isoformat()}, commit {_commit()}: {'succeeded' if succeeded else 'failed'}.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {fact} | {value} |" for fact, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
