"""Finds ruled tables on pages of a PDF with pdfplumber."""

import io
import logging
from collections.abc import Iterable, Iterator, Sequence

import pdfplumber

from producer.processing.extract.cleaning import one_line
from producer.processing.extract.port import Table
from producer.processing.extract.tables import make_table


def find_tables(raw: bytes, numbers: Sequence[int]) -> tuple[list[Table], list[str]]:
    """The tables of the pages with these numbers, from 1, and a warning per page that pdfplumber cannot read.

    pdfplumber stumbles over damage that pdfium repairs: then the words of the tables are in the text alone.
    """
    if not numbers:
        return [], []
    logging.getLogger("pdfminer").setLevel(logging.CRITICAL)
    tables: list[Table] = []
    warnings: list[str] = []
    try:
        with pdfplumber.open(io.BytesIO(raw), pages=[*numbers]) as reader:
            for page in reader.pages:
                try:
                    tables += _usable(page.extract_tables(), page.page_number)
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


def _usable(found: Iterable[Sequence[Sequence[str | None]]], number: int) -> Iterator[Table]:
    """The tables of two or more rows and columns, half of whose cells have text: others are frames and drawings."""
    for rows in found:
        table = make_table(([cell or "" for cell in row] for row in rows), page=number)
        if table is None or len(table.rows) < 2 or len(table.rows[0]) < 2:
            continue
        filled = sum(bool(cell) for row in table.rows for cell in row)
        if 2 * filled >= len(table.rows) * len(table.rows[0]):
            yield table
