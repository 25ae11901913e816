"""Reads CSV: one table, whose separator is found in its first lines."""

import csv
import io

from producer.processing.extract.encodings import decode
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Content, Unreadable
from producer.processing.extract.tables import make_table

_SEPARATORS = ",;\t|"
_SAMPLE_LINES = 50


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of CSV. Raises Undecodable and Unreadable."""
    text = decode(raw)
    csv.field_size_limit(limits.text_chars)
    rows, cells = [], 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text)):
            cells += len(row)
            if cells > limits.cells:
                raise Unreadable(f"too many table cells: the limit is {limits.cells:,}")
            rows.append(row)
    except csv.Error as error:
        raise Unreadable(f"damaged: {error}") from error
    table = make_table(rows)
    return Content([table] if table else [], is_markdown=True)


def _separator(text: str) -> str:
    """The separator that splits the first lines into the same number of cells most often."""
    lines = text[:65_536].splitlines()[:_SAMPLE_LINES]

    def steadiness(separator: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=separator)]
        usual = max(set(widths), key=widths.count, default=1)
        return (widths.count(usual), usual) if usual > 1 else (0, 1)

    return max(_SEPARATORS, key=steadiness)
