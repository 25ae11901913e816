"""The ruled tables of a PDF stand in its text once, in their place; where that is not certain, no word is lost."""

from contextlib import closing
from pathlib import Path

import fpdf
import pypdfium2
import pytest

from producer.processing.extract.extract import extract
from producer.processing.extract.pdf_tables import Words, put_in_place
from producer.processing.extract.port import Passage, Table
from tests.support.sample_files import ASK, DAYS, LEAVE, write_pdf

pytestmark = pytest.mark.unit

TABLE = Table((("Country", "Days"), ("Japan", "10")))
WORDS = "Country Days\r\nJapan 10"


def draw_table(pdf: fpdf.FPDF) -> None:
    with pdf.table() as rows:
        for row in DAYS:
            cells = rows.row()
            for cell in row:
                cells.cell(cell)


def test_table_takes_the_place_of_its_words() -> None:
    blocks, apart = put_in_place(f"Before.\r\n{WORDS}\r\nAfter.", [Words(TABLE, WORDS)])
    assert (blocks, apart) == ([Passage("Before."), TABLE, Passage("After.")], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{WORDS}\r\nand {WORDS}", WORDS),  # which of them is the table?
        ("Country Days\r\nsomething else\r\nJapan 10", WORDS),  # interrupted
        (f"{WORDS} days", f"{WORDS} days"),  # its box holds more than its cells
        (f"Big{WORDS}", WORDS),  # begins inside a word
        ("Country Days\r\nJapan", "Country Days\r\nJapan"),  # its box holds less
        (WORDS, ""),  # the page is rotated
    ],
)
def test_text_stays_whole_where_the_place_is_not_certain(text: str, words: str) -> None:
    assert put_in_place(text, [Words(TABLE, words)]) == ([Passage(text)], [TABLE])


def test_two_tables_keep_the_order_of_the_text() -> None:
    other = Table((("City", "Rain"), ("Bergen", "240")))
    text = f"One.\n{WORDS}\nTwo.\nCity Rain\nBergen 240"
    found = [Words(other, "City Rain\nBergen 240"), Words(TABLE, WORDS), Words(TABLE, WORDS)]
    blocks, apart = put_in_place(text, found)
    assert blocks == [Passage("One."), TABLE, Passage("Two."), other, Passage("")]
    assert apart == [TABLE]


def test_word_of_a_table_stands_in_the_text_once(tmp_path: Path) -> None:
    found = extract(write_pdf(tmp_path / "a.pdf", [LEAVE, ASK], table=DAYS))
    assert [found.text.count(cell) for row in DAYS for cell in row] == [1] * 8
    assert found.text.startswith(f"{LEAVE}\n\n{ASK}\n\n| Country | Days |\n")


def test_words_of_a_rotated_table_are_kept(tmp_path: Path) -> None:
    with closing(pypdfium2.PdfDocument(write_pdf(tmp_path / "a.pdf", table=DAYS))) as document:
        for page in document:
            page.set_rotation(90)
        document.save(tmp_path / "rotated.pdf")
    found = extract(tmp_path / "rotated.pdf")
    assert all(cell in found.text for row in DAYS for cell in row)
    assert [table.start for table in found.tables] == [None]


def test_text_around_a_table_keeps_its_order(tmp_path: Path) -> None:
    pdf = fpdf.FPDF()
    pdf.set_font("Helvetica", size=12)
    pdf.add_page()
    pdf.multi_cell(0, 8, LEAVE)
    draw_table(pdf)
    pdf.multi_cell(0, 8, ASK)
    path = tmp_path / "around.pdf"
    path.write_bytes(bytes(pdf.output()))
    found = extract(path)
    [table] = found.tables
    assert table.start is not None
    assert table.end is not None
    assert found.text[: table.start].strip() == LEAVE
    assert found.text[table.end :].strip() == ASK
