"""Tables into chunks of four levels: the table, its rows, its columns and its cells.

The chunks of the level `table` hold every cell; the others repeat the cells with their names, so that a question about
one of them finds it. Which levels a table gets depends on its size alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from producer.processing.chunk import boundaries, slicer
from producer.processing.chunk.slicer import DEFAULT_LIMITS, ChunkLimits
from producer.processing.extract.port import Table
from producer.processing.extract.tables import markdown_lines

_LIMITS = ChunkLimits(DEFAULT_LIMITS.max_chars, 0, DEFAULT_LIMITS.max_bytes)


@dataclass(frozen=True, slots=True)
class LevelLimits:
    """The largest table, in cells, that gets a level; larger ones are found by the coarser levels."""

    row: int = 50_000
    col: int = 2_000
    cell: int = 500


@dataclass(frozen=True, slots=True)
class TableChunk:
    """A chunk of a table. `start` is its offset in the text, where the text has exactly this content; else None."""

    content: str
    vector_level: str  # table, row, col or cell
    parent: int | None = None  # position in the list: the table for rows and columns, the row for cells
    start: int | None = None


DEFAULT_LEVELS = LevelLimits()


def chunk_table(table: Table, levels: LevelLimits = DEFAULT_LEVELS) -> list[TableChunk]:
    """The chunks of a table in the order table, rows with their cells, columns. A parent comes before its children."""
    chunks: list[TableChunk] = []
    table_of_row = _add_table(table, chunks)
    rows = [*enumerate(table.rows)][table.has_header :]
    cells = len(table.rows) * len(table.rows[0])
    if cells <= levels.row and len(rows) > 1:
        for number, row in rows:
            _add_row(table, number, row, table_of_row[number], chunks, has_cells=cells <= levels.cell)
    if cells <= levels.col and len(rows) > 1 and len(table.rows[0]) > 1:
        for column in range(len(table.rows[0])):
            _add_column(table, column, chunks)
    return chunks


def _add_table(table: Table, chunks: list[TableChunk]) -> list[int]:
    """Add the table as Markdown, in parts if it is large, each with the header. Returns the part of each row."""
    lines = markdown_lines(table)
    header = lines[: 2 * table.has_header]
    part_of_row = [0] * table.has_header
    at = table.start
    for number, (first, last) in enumerate(_parts(lines, len(header))):
        has_slice = at is not None and (number == 0 or not header)
        part_of_row += [len(chunks)] * (last - first)
        repeated = [*header, *lines[first:last]] if number else lines[:last]
        chunks.extend(_bounded("\n".join(repeated), "table", None, at if has_slice else None))
        if at is not None:
            at += len("\n".join(lines[first if number else 0 : last])) + 1
    return part_of_row


def _parts(lines: Sequence[str], header: int) -> Iterator[tuple[int, int]]:
    """Ranges (first, last) of lines, without the header lines, that fit a chunk together with these."""
    header_chars = sum(len(line) + 1 for line in lines[:header])
    first, size = header, header_chars
    for number in range(header, len(lines)):
        if number > first and size + len(lines[number]) > _LIMITS.max_chars:
            yield first, number
            first, size = number, header_chars
        size += len(lines[number]) + 1
    yield first, len(lines)


def _add_row(
    table: Table, number: int, row: Sequence[str], part: int, chunks: list[TableChunk], *, has_cells: bool
) -> None:
    named = [(_name(table, column), cell) for column, cell in enumerate(row) if cell]
    if not named:
        return
    parent = len(chunks)
    content = "; ".join(f"{name}: {cell}" if name else cell for name, cell in named)
    chunks.extend(_bounded(_with_caption(table, content), "row", part))
    if not has_cells or len(named) < 2:
        return
    key = row[0]
    for column, cell in enumerate(row):
        if cell and column > 0:
            name = ", ".join(part for part in (key, _name(table, column)) if part)
            chunks.extend(_bounded(_with_caption(table, f"{name}: {cell}" if name else cell), "cell", parent))


def _add_column(table: Table, column: int, chunks: list[TableChunk]) -> None:
    values = [row[column] for row in table.rows[table.has_header :] if row[column]]
    if not values:
        return
    name = _name(table, column)
    content = "; ".join(values)
    chunks.extend(_bounded(_with_caption(table, f"{name}: {content}" if name else content), "col", 0))


def _name(table: Table, column: int) -> str:
    return table.rows[0][column] if table.has_header else ""


def _with_caption(table: Table, content: str) -> str:
    return f"{table.caption}: {content}" if table.caption else content


def _bounded(content: str, level: str, parent: int | None, start: int | None = None) -> Iterator[TableChunk]:
    """The content as one chunk, or as several if it is too long for one."""
    span = boundaries.trim(content, 0, len(content))
    if span is None:
        return
    for begin, end in slicer.slices(content, *span, _LIMITS):
        yield TableChunk(content[begin:end], level, parent, None if start is None else start + begin)
