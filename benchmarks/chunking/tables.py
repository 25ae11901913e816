"""Prints what was read, what it cost, and how well each strategy found the answers."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.chunking.files import Reading
from benchmarks.chunking.measure import BEST, READ_CHARACTERS

_MOST_REASONS = 10


def print_readings(console: Console, readings: Mapping[str, Reading]) -> None:
    """One row per kind of file, then why files were not read."""
    columns = ("files", "not_read", "mb", "pages", "characters", "tables")
    rates = ("files_per_second", "mb_per_second", "pages_per_second")
    table = _table("reading, in one child process", "kind", *columns, *rates)
    for kind, reading in readings.items():
        facts = reading.facts
        rows = [f"{facts[name]:,.0f}" for name in columns] + [f"{facts[name]:,.1f}" for name in rates]
        table.add_row(kind, *rows)
    console.print(table)
    for kind, reading in readings.items():
        for reason, count in reading.reasons.most_common(_MOST_REASONS):
            console.print(f"  {kind}: {count} not read: {reason[:200]}", markup=False, highlight=False)


def print_rates(console: Console, searched: Mapping[str, Mapping[str, float]]) -> None:
    """One row per strategy: its chunks, and how fast they were cut and embedded in the last round."""
    rates = ("chunks_cut_per_second", "chunks_embedded_per_second", "characters_embedded_per_second")
    columns = ("chunks", "characters_per_text_chunk", *rates)
    table = _table("cutting and embedding, one thread", "strategy", *columns)
    for name, facts in searched.items():
        table.add_row(name, *(f"{facts[column]:,.0f}" for column in columns))
    console.print(table)


def print_scores(
    console: Console,
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    gains: Mapping[str, Sequence[float]],
) -> None:
    """One row per strategy and group of questions; `gains` are those of all questions."""
    columns = ("recall@1", f"recall@{BEST}", "mrr", "read")
    caption = f"read: in the first {READ_CHARACTERS:,} characters of the best chunks. over default: recall@{BEST}"
    table = _table("known-item retrieval", "questions", "strategy", *columns, "over default", caption=caption)
    groups = [*next(iter(scores.values()))]
    for group in groups:
        for name, of_groups in scores.items():
            one = of_groups[group]
            if not one["questions"]:
                continue
            over, error = gains[name]
            shown = f"{over:+.3f} ± {error:.3f}" if group == "all" else ""
            numbers = (f"{one[column]:.3f}" for column in columns)
            table.add_row(f"{group}, {one['questions']:,.0f}", name, *numbers, shown)
        table.add_section()
    console.print(table)


def _table(title: str, *columns: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
    for number, column in enumerate(columns):
        is_name = number == 0 or column == "strategy"
        table.add_column(column.replace("_per_second", "/s").replace("_", " "), justify="left" if is_name else "right")
    return table
