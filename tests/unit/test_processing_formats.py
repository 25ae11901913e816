"""Real files of every format become text, tables and images; which libraries made them is no matter."""

import datetime
import io
import socket
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image as Pillow

from producer.processing.extract import ocr
from producer.processing.extract.extract import FileExtractor
from producer.processing.extract.formats import FORMATS
from producer.processing.extract.port import Extracted
from schema.database.tables import SOURCE_TYPES
from tests.support.sample_files import ASK, DAYS, LEAVE, picture_of, png, write_excel, write_pdf, write_word

pytestmark = pytest.mark.unit

needs_ocr = pytest.mark.skipif(not ocr.is_installed(), reason="needs the extra ocr")

PAGE = f"""<!doctype html>
<html lang="en-GB"><head><title>Leave policy | Example</title><style>p {{color: red}}</style></head>
<body><nav><a href="/">Home</a> <a href="/products">Products</a></nav>
<main><h1>Leave policy<a href="#leave">¶</a></h1><p>{LEAVE} Use the <code>leave</code> command:</p>
<pre>leave ask \\
  --days 3</pre>
<h2>Days</h2><ul><li>First</li><li>Second<ul><li>Nested</li></ul></li></ul>
<table><caption>Days per country</caption>
<thead><tr><th>Country</th><th>Days</th><th>Paid</th></tr></thead>
<tr><td rowspan="2">Germany</td><td>30</td><td>yes</td></tr><tr><td colspan="2">unpaid | more</td></tr></table>
<p hidden>Secret</p><script>alert("no")</script></main>
<footer>Copyright Example</footer></body></html>"""


@pytest.fixture(scope="module")
def extractor() -> Iterator[FileExtractor]:
    with FileExtractor() as extractor:
        yield extractor


def in_text(found: Extracted) -> list[str]:
    """The text of each table at its place in the text."""
    return [found.text[table.start : table.end] for table in found.tables if table.start is not None]


def test_pdf(extractor: FileExtractor, tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [LEAVE, ASK], title="Leave policy", table=DAYS, picture=picture_of("A chart"))
    found = extractor.extract(path)
    [table] = found.tables
    assert found.text == f"{LEAVE}\n\n{ASK}\n\n{in_text(found)[0]}"  # the words of the table stand there once
    assert in_text(found) == ["| Country | Days |\n| --- | --- |\n| Germany | 30 |\n| France | 25 |\n| Japan | 10 |"]
    assert (found.title, found.source_type, found.content_type) == ("Leave policy", "pdf", "application/pdf")
    assert (found.page_count, found.is_markdown, found.scanned, found.warnings) == (2, False, (), ())
    assert [[*row] for row in table.rows] == DAYS
    assert (table.has_header, table.page) == (True, 2)
    [image] = found.images
    with Pillow.open(io.BytesIO(image.png)) as picture:
        assert (picture.format, picture.size, image.page) == ("PNG", (800, 200), 2)
        assert (image.width, image.height) == picture.size


def test_pdf_without_title_is_called_as_its_file(extractor: FileExtractor, tmp_path: Path) -> None:
    assert extractor.extract(write_pdf(tmp_path / "leave policy.pdf")).title == "leave policy"
    assert extractor.extract(write_pdf(tmp_path / "b.pdf", title="Microsoft Word - draft.doc")).title == "b"


def test_word(extractor: FileExtractor, tmp_path: Path) -> None:
    found = extractor.extract(write_word(tmp_path / "a.docx", title="The policy", picture=picture_of("A chart")))
    assert found.text == (
        f"# Leave policy\n\n{LEAVE}\n\n## How to ask\n\n- {ASK}\n- Fill in the form.\n\n"
        "| Country | Days |\n| --- | --- |\n| Germany | 30 |\n| France | 25 |\n| Japan | 10 |\n\nAfter the table."
    )
    assert (found.title, found.source_type, found.is_markdown) == ("The policy", "word", True)
    assert [[*row] for row in found.tables[0].rows] == DAYS
    assert in_text(found) == [found.text[168:248]]
    assert [(image.width, image.height) for image in found.images] == [(800, 200)]


def test_excel(extractor: FileExtractor, tmp_path: Path) -> None:
    prices: list[list[object]] = [["Item", "Price", "From"], ["Cup", 2.5, datetime.date(2026, 3, 1)], ["Pen", 1, None]]
    leave: list[Sequence[object]] = [["Days per country"], *DAYS, [], *prices]
    sheets: dict[str, Sequence[Sequence[object]]] = {"Leave": leave, "Hidden": [["secret", "x"]], "Empty": []}
    found = extractor.extract(write_excel(tmp_path / "a.xlsx", sheets, hidden=["Hidden"]))
    assert found.text == (
        "## Leave\n\nDays per country\n\n| Country | Days |\n| --- | --- |\n| Germany | 30 |\n| France | 25 |\n"
        "| Japan | 10 |\n\n| Item | Price | From |\n| --- | --- | --- |\n| Cup | 2.5 | 2026-03-01 |\n| Pen | 1 |  |"
    )
    assert [table.caption for table in found.tables] == ["Leave: Days per country", "Leave"]
    assert in_text(found) == found.text.split("\n\n")[2:]
    assert (found.source_type, found.warnings) == ("table", ("hidden sheet 'Hidden'",))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv(extractor: FileExtractor, tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    rows = [["Land", "Tage"], ["Österreich", '"25\n+ 1"'], ["Japan"]]
    path.write_bytes("\r\n".join(separator.join(row) for row in rows).encode("utf-16"))
    found = extractor.extract(path)
    assert found.tables[0].rows == (("Land", "Tage"), ("Österreich", "25 + 1"), ("Japan", ""))
    assert found.text == "| Land | Tage |\n| --- | --- |\n| Österreich | 25 + 1 |\n| Japan |  |"
    assert (found.source_type, found.content_type) == ("table", "text/csv")


def test_web_page(extractor: FileExtractor, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    found = extractor.extract(tmp_path / "a.html")
    assert found.text == (
        f"# Leave policy\n\n{LEAVE} Use the leave command:\n\n```\nleave ask \\\n  --days 3\n```\n\n## Days\n\n"
        "- First\n- Second\n  - Nested\n\n"
        "| Country | Days | Paid |\n| --- | --- | --- |\n| Germany | 30 | yes |\n"
        "| Germany | unpaid \\| more | unpaid \\| more |"
    )
    assert (found.title, found.language, found.source_type) == ("Leave policy | Example", "en-GB", "webpage")
    [table] = found.tables
    assert (table.caption, table.has_header) == ("Days per country", True)
    assert table.rows[2] == ("Germany", "unpaid | more", "unpaid | more")


def test_web_page_without_main_element_loses_its_navigation(extractor: FileExtractor, tmp_path: Path) -> None:
    menu = "".join(f'<li><a href="/{number}">Menu {number}</a></li>' for number in range(20))
    text = "".join(f"<p>{LEAVE} This is paragraph {number}. {ASK}</p>" for number in range(8))
    page = f'<html><body><div class="menu"><ul>{menu}</ul></div><div class="text">{text}</div></body></html>'
    (tmp_path / "a.htm").write_text(page)
    found = extractor.extract(tmp_path / "a.htm").text
    assert "Menu 7" not in found
    assert all(f"This is paragraph {number}." in found for number in range(8))


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("shift_jis", '<meta charset="Shift_JIS">'),
        ("gb18030", '<meta http-equiv="Content-Type" content="text/html; charset=gb2312">'),
        ("utf-16", ""),
        ("cp1252", "<meta charset=iso-8859-1>"),
    ],
)
def test_web_page_in_its_own_encoding(extractor: FileExtractor, tmp_path: Path, encoding: str, head: str) -> None:
    text = "Für “alle”" if encoding == "cp1252" else "有給休暇"
    (tmp_path / "a.html").write_bytes(f"<html><head>{head}</head><body><p>{text}</p></body></html>".encode(encoding))
    assert extractor.extract(tmp_path / "a.html").text == text


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_excel_file_with_an_embedded_word_file_stays_a_table(
    extractor: FileExtractor, tmp_path: Path, method: int
) -> None:
    word, excel = write_word(tmp_path / "inner.docx"), write_excel(tmp_path / "a.xlsx", {"Days": DAYS})
    with zipfile.ZipFile(excel, "a") as archive:
        archive.write(word, "xl/embeddings/Microsoft_Word_Document.docx", method)
    assert extractor.extract(excel).source_type == "table"


def test_open_document_spreadsheet(extractor: FileExtractor, tmp_path: Path) -> None:
    office, path = "urn:oasis:names:tc:opendocument:xmlns", tmp_path / "a.ods"
    rows = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p></table:table-cell>' for cell in row
        )
        + "</table:table-row>"
        for row in (("Country", "Days"), ("Germany", "thirty"))
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet", zipfile.ZIP_STORED)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}:office:1.0" xmlns:table="{office}:table:1.0" '
            f'xmlns:text="{office}:text:1.0"><office:body><office:spreadsheet>'
            f'<table:table table:name="Leave">{rows}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>",
        )
    found = extractor.extract(path)
    assert (found.source_type, found.tables[0].rows) == ("table", (("Country", "Days"), ("Germany", "thirty")))


def test_content_wins_over_suffix(extractor: FileExtractor, tmp_path: Path) -> None:
    assert extractor.extract(write_pdf(tmp_path / "a.docx")).source_type == "pdf"
    assert extractor.extract(write_word(tmp_path / "a.xlsx")).source_type == "word"
    assert extractor.extract(write_excel(tmp_path / "b.xlsx", {"a": DAYS}).rename(tmp_path / "b.txt")).tables
    (tmp_path / "page").write_text(f"\n<!DOCTYPE html><p>{LEAVE}")
    assert extractor.extract(tmp_path / "page").source_type == "webpage"


@needs_ocr
def test_image_and_scanned_page_are_read(extractor: FileExtractor, tmp_path: Path) -> None:
    scan = picture_of(LEAVE, ASK, size=(1100, 200))
    (tmp_path / "a.png").write_bytes(png(scan))
    found = extractor.extract(tmp_path / "a.png")
    assert found.text == f"{LEAVE}\n{ASK}"
    assert (found.source_type, found.page_count) == ("image", 1)
    assert found.scanned == ((0, len(found.text)),)

    mixed = extractor.extract(write_pdf(tmp_path / "a.pdf", ["Typed page.", ""], picture=scan))
    assert mixed.text == f"Typed page.\n\n{LEAVE}\n{ASK}"
    assert mixed.scanned == ((13, len(mixed.text)),)
    assert (mixed.page_count, mixed.warnings) == (2, ())


def test_nothing_is_fetched(extractor: FileExtractor, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        (tmp_path / "a.html").write_text(
            f'<!DOCTYPE html SYSTEM "{url}.dtd"><html><head><base href="{url}"><link rel="stylesheet" href="{url}.css">'
            f'<script src="{url}.js"></script></head><body><img src="{url}.png"><iframe src="{url}"></iframe>'
            f'<p>{LEAVE}</p><a href="{url}">more</a></body></html>'
        )
        assert LEAVE in extractor.extract(tmp_path / "a.html").text
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody connected
            server.accept()


def test_formats_have_types_of_their_own() -> None:
    assert {each.source_type for each in FORMATS} == set(SOURCE_TYPES)
    assert len({each.content_type for each in FORMATS}) == len(FORMATS)
    suffixes = [suffix for each in FORMATS for suffix in each.suffixes]
    assert len(set(suffixes)) == len(suffixes)
