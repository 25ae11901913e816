"""Finds ruled tables on pages of a PDF with pdfplumber, and their words in the text that pdfium read."""

import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pdfplumber

from producer.processing.extract.cleaning import one_line
from producer.processing.extract.port import Passage, Table
from producer.processing.extract.tables import make_table


class Box(NamedTuple):
    """A place on a page, in units of the PDF: from its lower left corner, upwards and to the right."""

    left: float
    bottom: float
    right: float
    top: float


class FoundTable(NamedTuple):
    table: Table
    box: Box | None  # None on a rotated page


class Words(NamedTuple):
    """A table, and the text that pdfium has in its box."""

    table: Table
    text: str


def find_tables(raw: bytes, numbers: Sequence[int]) -> tuple[list[FoundTable], list[str]]:
    """The tables of the pages with these numbers, from 1, and a warning per page that pdfplumber cannot read.

    pdfplumber stumbles over damage that pdfium repairs: then the words of the tables are in the text alone.
    """
    if not numbers:
        return [], []
    logging.getLogger("pdfminer").setLevel(logging.CRITICAL)
    tables: list[FoundTable] = []
    warnings: list[str] = []
    try:
        with pdfplumber.open(io.BytesIO(raw), pages=[*numbers]) as reader:
            for page in reader.pages:
                try:
                    tables += _usable(page)
                except MemoryError:
                    raise
                except Exception as error:  # noqa: BLE001  # as below
                    warnings.append(f"tables of page {page.page_number}: {_describe(error)}")
                finally:
                    page.close()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # pdfminer raises errors of any kind
        warnings.append(f"tables: {_describe(error)}")
    return tables, warnings


def _describe(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__


def _usable(page: Any) -> Iterator[FoundTable]:
    """The tables of two or more rows and columns, half of whose cells have text: others are frames and drawings."""
    for each in page.find_tables():
        table = make_table(([cell or "" for cell in row] for row in each.extract()), page=page.page_number)
        if table is None or len(table.rows) < 2 or len(table.rows[0]) < 2:
            continue
        filled = sum(bool(cell) for row in table.rows for cell in row)
        if 2 * filled >= len(table.rows) * len(table.rows[0]):
            yield FoundTable(table, None if page.rotation else _box_of(page, each.bbox))


def _box_of(page: Any, found: tuple[float, float, float, float]) -> Box:
    """pdfplumber measures downwards from the upper edge of the page."""
    left, above, right, below = found
    edge = page.height + page.mediabox[1]
    return Box(left, edge - below, right, edge - above)


def put_in_place(text: str, tables: Iterable[Words]) -> tuple[list[Passage | Table], list[Table]]:
    """The text of a page with each table instead of its words, and the tables that stay apart from the text.

    A table takes the place of its words if they have exactly the letters of its cells, and follow each other in one
    place of the text alone. Otherwise nothing is taken out of the text: the words of such a table stand twice.
    """
    places: list[tuple[int, int, Table]] = []
    apart: list[Table] = []
    for table, words in tables:
        place = _find_once(text, words) if _has_same_letters(table, words) else None
        if place is None or any(place[0] < end and start < place[1] for start, end, _ in places):
            apart.append(table)
        else:
            places.append((*place, table))
    blocks: list[Passage | Table] = []
    at = 0
    for start, end, table in sorted(places, key=lambda one: one[0]):
        blocks += [Passage(text[at:start].strip()), table]
        at = end
    return [*blocks, Passage(text[at:].strip() if blocks else text)], apart


def _has_same_letters(table: Table, words: str) -> bool:
    cells = "".join(cell for row in table.rows for cell in row)
    return Counter("".join(cells.split())) == Counter("".join(words.split()))


def _find_once(text: str, words: str) -> tuple[int, int] | None:
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    spans = [match.span() for match in re.finditer(rf"(?<!\S){pattern}(?!\S)", text)]
    return spans[0] if len(spans) == 1 else None
