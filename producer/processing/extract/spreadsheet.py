"""Reads Excel and OpenDocument spreadsheets with calamine: each block of filled rows of a sheet is a table."""

import datetime
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from python_calamine import (
    CalamineError,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from producer.processing.extract import archive
from producer.processing.extract.cleaning import one_line
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Content, Passage, Table, Unreadable
from producer.processing.extract.tables import make_table


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of spreadsheets. Raises Unreadable. Hidden sheets are left out, and named in a warning."""
    if raw.startswith(b"PK"):
        archive.require_bounded(raw, limits)
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(raw))
        return _read(workbook, limits)
    except PasswordError as error:
        raise Unreadable("it is encrypted: remove its password") from error
    except CalamineError as error:
        raise Unreadable(f"damaged: {error}") from error


def _read(workbook: CalamineWorkbook, limits: ExtractLimits) -> Content:
    blocks: list[Passage | Table] = []
    warnings = []
    cells = 0
    sheets = [sheet for sheet in workbook.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    for number, metadata in enumerate(sheets):
        if metadata.visible != SheetVisibleEnum.Visible:
            warnings.append(f"hidden sheet {one_line(metadata.name)!r}")
            continue
        sheet = workbook.get_sheet_by_name(metadata.name)
        cells += sheet.height * sheet.width  # the rectangle of all cells that have a value
        if cells > limits.cells:
            raise Unreadable(f"too many table cells: {cells:,} or more, the limit is {limits.cells:,}")
        name = one_line(metadata.name)
        found = [*_blocks(sheet.to_python(), name)]
        if found and (len(sheets) > 1 or name):
            blocks.append(Passage(f"## {name or f'Sheet {number + 1}'}"))
        blocks += found
    return Content(blocks, is_markdown=True, warnings=warnings)


def _blocks(rows: Sequence[Sequence[Any]], name: str) -> Iterator[Passage | Table]:
    """The tables of a sheet, separated by blank rows. A row of one cell is a passage, and the caption of its table."""
    texts = ([_text(cell) for cell in row] for row in rows)
    caption = name
    for is_filled, some in groupby(texts, key=lambda row: any(cell.strip() for cell in row)):
        if not is_filled:
            continue
        block = list(some)
        while block and len(filled := [cell for cell in block[0] if cell.strip()]) == 1 and _is_title(block):
            caption = f"{name}: {one_line(filled[0])}" if name else one_line(filled[0])
            yield Passage(filled[0])
            block.pop(0)
        table = make_table(block, caption=caption)
        if table:
            yield table
        caption = name


def _is_title(block: Sequence[Sequence[str]]) -> bool:
    """Whether the first row, of one cell, stands above wider rows, or alone."""
    return len(block) == 1 or any(sum(bool(cell.strip()) for cell in row) > 1 for row in block[1:])


def _text(cell: Any) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "TRUE" if cell else "FALSE"
        case float():
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
        case datetime.datetime() if cell.time() == datetime.time():
            return cell.date().isoformat()
        case datetime.datetime():
            return cell.isoformat(" ", "seconds")
        case datetime.date() | datetime.time():
            return cell.isoformat()
        case _:
            return str(cell)
