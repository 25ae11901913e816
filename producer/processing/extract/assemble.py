"""Joins what an extractor found into one clean text, with the places of tables and of scanned passages in it."""

from dataclasses import replace

from producer.processing.extract.cleaning import clean
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Content, Table, Unreadable
from producer.processing.extract.tables import markdown_lines

_GAP = "\n\n"


def assemble(content: Content, limits: ExtractLimits) -> tuple[str, tuple[Table, ...], tuple[tuple[int, int], ...]]:
    """The text, all tables with their places in it, and the spans that were read from images.

    Raises Unreadable if there is more than the limits allow.
    """
    require_few_cells([*(block for block in content.blocks if isinstance(block, Table)), *content.tables], limits)
    pieces: list[str] = []
    tables: list[Table] = []
    scanned: list[tuple[int, int]] = []
    at = 0
    for block in content.blocks:
        piece = "\n".join(markdown_lines(block)) if isinstance(block, Table) else clean(block.text)
        if not piece or piece.isspace():
            continue
        if pieces:
            pieces.append(_GAP)
            at += len(_GAP)
        end = at + len(piece)
        if end > limits.text_chars:
            raise Unreadable(f"too much text: more than the limit of {limits.text_chars:,} characters")
        if isinstance(block, Table):
            tables.append(replace(block, start=at, end=end))
        elif block.is_scanned:
            scanned.append((at, end))
        pieces.append(piece)
        at = end
    return "".join(pieces), (*tables, *content.tables), _join(scanned)


def require_few_cells(tables: list[Table], limits: ExtractLimits) -> None:
    """Raise Unreadable for more tables or cells than the limits allow."""
    if len(tables) > limits.tables:
        raise Unreadable(f"too many tables: {len(tables):,}, the limit is {limits.tables:,}")
    cells = sum(len(table.rows) * len(table.rows[0]) for table in tables)
    if cells > limits.cells:
        raise Unreadable(f"too many table cells: {cells:,}, the limit is {limits.cells:,}")


def _join(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans that follow each other, with only the gap between them, become one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= len(_GAP):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
