"""Tables in text: their Markdown form, and how rows of cells become a `Table`."""

import re
from collections.abc import Iterable, Sequence

from producer.processing.extract.cleaning import one_line
from producer.processing.extract.port import Table

_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d\s*%?")


def make_table(
    rows: Iterable[Sequence[str]],
    *,
    has_header: bool | None = None,
    caption: str | None = None,
    page: int | None = None,
) -> Table | None:
    """A table of clean cells, each on one line; None if there is no cell with text.

    Blank rows and columns at the edges are removed, and short rows filled up. Without `has_header`, the first row is a
    header if it looks like one: every cell has text, no two are the same, none is a number, and other rows follow.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    while cells and not any(cells[-1]):
        cells.pop()
    while cells and not any(cells[0]):
        cells.pop(0)
    if not cells:
        return None
    last = max(index for row in cells for index, cell in enumerate(row) if cell)
    first = min(index for row in cells for index, cell in enumerate(row) if cell)
    width = last + 1 - first
    whole = tuple((*row[first : last + 1], *[""] * (width - len(row[first : last + 1]))) for row in cells)
    header = _looks_like_header(whole) if has_header is None else has_header
    return Table(whole, header, one_line(caption) or None if caption else None, page)


def _looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    names = rows[0]
    return (
        len(rows) > 1
        and len(names) > 1
        and all(names)
        and len(set(names)) == len(names)
        and not any(_NUMBER.fullmatch(name) for name in names)
    )


def markdown_lines(table: Table) -> list[str]:
    """The lines of the table in Markdown; a line of dashes follows the header."""
    lines = [markdown_row(row) for row in table.rows]
    if table.has_header:
        lines.insert(1, f"|{' --- |' * len(table.rows[0])}")
    return lines


def markdown_row(row: Sequence[str]) -> str:
    """The line of one row in Markdown."""
    cells = (cell.replace("|", "\\|") if "|" in cell else cell for cell in row)
    return f"| {' | '.join(cells)} |"
