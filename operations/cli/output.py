"""The output of a command: results on stdout, progress and notes on stderr, colours and bars only on a terminal."""

import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_WIDEST = 100_000  # characters of a table in a pipe
_SURROGATE = re.compile("[\ud800-\udfff]")  # how Python names the bytes of a file name that are not UTF-8


def to_json(facts: Mapping[str, Any]) -> str:
    """One JSON object on one line, which every strict parser takes; see `printable`."""
    text = json.dumps(facts, ensure_ascii=False, default=str)
    return _SURROGATE.sub(lambda found: rf"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    r"""`text` as UTF-8 can encode it: a byte 0xe9 of a file name becomes the six characters `\udce9`."""
    return _SURROGATE.sub(lambda found: rf"\u{ord(found[0]):04x}", text)


class Show(Protocol):
    """Shows one result; see `Output.result`."""

    def __call__(self, facts: Mapping[str, Any], /, *lines: str | Table) -> None: ...


class Output:
    """Where a command prints. With `json`, stdout gets one JSON object and nothing else."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, facts: Mapping[str, Any], *lines: str | Table) -> None:
        """Print the outcome on stdout: `facts` as JSON, or `lines` for a person."""
        if self.json:
            sys.stdout.write(to_json(facts) + "\n")
            sys.stdout.flush()
            return
        for line in lines:
            if isinstance(line, str):
                self._out.print(printable(line), markup=False)
            else:
                self._print_table(line)

    def _print_table(self, shown: Table) -> None:
        """In a pipe as wide as its content; on a terminal never narrower than its whole columns."""
        needed = Measurement.get(self._out, self._out.options.update(width=_WIDEST), shown)
        width = max(self._out.width, needed.minimum) if self._out.is_terminal else needed.maximum
        Console(highlight=False, soft_wrap=True, width=width).print(shown)

    @contextmanager
    def live(self) -> Iterator[Show]:
        """Show results one after another: in place on a terminal, else each below the last, with its time."""
        if self.json:
            yield self.result
            return
        if not self._out.is_terminal:
            yield lambda facts, *lines: self.result(facts, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", *lines)
            return
        with Live(console=self._out, auto_refresh=False) as live:

            def show(_facts: Mapping[str, Any], *lines: str | Table) -> None:
                shown = (Text(line) if isinstance(line, str) else line for line in lines)
                live.update(Group(*shown), refresh=True)

            yield show

    def note(self, line: str) -> None:
        """Print a line on stderr."""
        self._err.print(printable(line), markup=False)

    def heading(self, line: str) -> None:
        """Print a bold line on stdout."""
        self._out.print(f"\n{line}", style="bold", markup=False)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator["Bar"]:
        """Show a bar on a terminal, nothing elsewhere. `total` is None when it is unknown."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._err, disable=not self._err.is_terminal, transient=True) as progress:
            yield Bar(progress, progress.add_task(label, total=total))


class Bar:
    """A progress bar; `advance` and `move` move it."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def move(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done."""
        self._progress.update(self._task, completed=done, total=total)


def count(number: int, noun: str) -> str:
    """For instance "1 document" and "2 documents"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(*columns: str, whole: Collection[str] = ()) -> Table:
    """An empty table for a person. Columns whose name starts with '#' are right-aligned, those of `whole` never cut."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.startswith("#") else "left"
        made.add_column(column.removeprefix("#"), justify=justify, no_wrap=column in whole)
    return made
