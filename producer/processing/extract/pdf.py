"""Reads PDFs: the text of every page with pdfium, ruled tables with pdfplumber, images, and scanned pages by OCR."""

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pdfplumber
import pypdfium2
import pypdfium2.raw as pdfium

from producer.processing.extract import ocr
from producer.processing.extract.cleaning import one_line
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.pictures import Gallery, require_few_pixels
from producer.processing.extract.port import Content, Passage, Table, Unreadable
from producer.processing.extract.tables import make_table

_RULES = range(4, 5_000)  # paths on a page that may have a table: fewer rule no cell, more are a drawing
_OCR_PIXELS = 2_000  # of the longer side of a page; OCR reads no finer ones
_NESTED_FORMS = 3  # levels of forms in which images are looked for
_LINE_END_HYPHENS = ("\ufffe\r\n", "\x02\r\n", "\ufffe\n", "\x02\n")  # pdfium's marks of a word that goes on


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of PDFs. Raises Unreadable."""
    logging.getLogger("pdfminer").setLevel(logging.CRITICAL)
    with closing(_open(raw)) as document:
        pages = len(document)
        if pages > limits.pages:
            raise Unreadable(f"{pages:,} pages, the limit is {limits.pages:,}")
        return _Reader(raw, document, limits).read()


def _open(raw: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            raise Unreadable("it is encrypted: remove its password") from error
        raise Unreadable(f"damaged: {error}") from error


class _Reader:
    def __init__(self, raw: bytes, document: pypdfium2.PdfDocument, limits: ExtractLimits) -> None:
        self._raw = raw
        self._document = document
        self._limits = limits
        self._gallery = Gallery(limits)
        self._chars = 0
        self._ruled: list[int] = []  # indexes of the pages that may have a table
        self._scanned = 0
        self._unread: list[int] = []  # pages without text that no OCR read, from 1
        self._warnings: list[str] = []

    def read(self) -> Content:
        blocks = [passage for index in range(len(self._document)) if (passage := self._read_page(index)) is not None]
        if self._unread and len(self._unread) == len(self._document):
            raise Unreadable("its pages are scanned: reading them needs the extra ocr, pip install 'rag-outbox[ocr]'")
        if self._unread:
            shown = ", ".join(map(str, self._unread[:10])) + (" …" if len(self._unread) > 10 else "")
            self._warnings.append(f"pages without text, which only the extra ocr reads: {shown}")
        tables = [*self._tables()]
        return Content(
            blocks,
            is_markdown=False,
            tables=tables,
            images=self._gallery.images,
            page_count=len(self._document),
            title=self._title(),
            warnings=[*self._warnings, *self._gallery.warnings()],
        )

    def _read_page(self, index: int) -> Passage | None:
        """The text of a page; None if it is blank."""
        try:
            page = self._document[index]
        except pypdfium2.PdfiumError as error:
            raise Unreadable(f"damaged: page {index + 1}: {error}") from error
        with closing(page):
            text = self._text(page)
            images = self._keep_images(page, index)
            if text.strip():
                return Passage(text)
            if not images:
                return None
            if not ocr.is_installed():
                self._unread.append(index + 1)
                return None
            return self._read_scan(page)

    def _text(self, page: pypdfium2.PdfPage) -> str:
        with closing(page.get_textpage()) as text_page:
            self._chars += text_page.count_chars()
            if self._chars > self._limits.text_chars:
                raise Unreadable(f"too much text: more than the limit of {self._limits.text_chars:,} characters")
            text = str(text_page.get_text_bounded())
        for hyphen in _LINE_END_HYPHENS:
            text = text.replace(hyphen, "")
        return text

    def _read_scan(self, page: pypdfium2.PdfPage) -> Passage | None:
        self._scanned += 1
        if self._scanned > self._limits.scanned_pages:
            raise Unreadable(f"more than {self._limits.scanned_pages:,} scanned pages, which is the limit")
        scale = _OCR_PIXELS / max(page.get_width(), page.get_height(), 1)
        text = ocr.read(page.render(scale=scale).to_pil().convert("RGB"))
        return Passage(text, is_scanned=True) if text else None

    def _keep_images(self, page: pypdfium2.PdfPage, index: int) -> int:
        """Keep the images of a page; return their number. Counts the paths, which may rule a table, as well."""
        images = paths = 0
        for each in page.get_objects(
            filter=(pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_PATH), max_depth=_NESTED_FORMS
        ):
            if each.type == pdfium.FPDF_PAGEOBJ_PATH:
                paths += 1
                continue
            images += 1
            if self._limits.images == 0:
                continue
            if not isinstance(each, pypdfium2.PdfImage) or images > self._limits.images:
                self._gallery.left_out += 1
                continue
            try:
                width, height = each.get_px_size()
                require_few_pixels(width, height, self._limits)
                self._gallery.add(each.get_bitmap(render=False).to_pil(), index + 1)
            except (pypdfium2.PdfiumError, Unreadable, ValueError, OSError):
                self._gallery.left_out += 1
        if paths in _RULES:
            self._ruled.append(index)
        return images

    def _tables(self) -> Iterator[Table]:
        if not self._ruled:
            return
        try:
            reader = pdfplumber.open(io.BytesIO(self._raw), pages=[index + 1 for index in self._ruled])
        except Exception as error:  # noqa: BLE001  # pdfminer raises errors of any kind for damage that pdfium repairs
            self._warnings.append(f"tables: {one_line(str(error)) or type(error).__name__}")
            return
        with reader:
            for page in reader.pages:
                try:
                    found = page.extract_tables()
                except Exception as error:  # noqa: BLE001  # as above
                    self._warnings.append(
                        f"tables of page {page.page_number}: {one_line(str(error)) or type(error).__name__}"
                    )
                    continue
                finally:
                    page.close()
                yield from self._usable(found, page.page_number)

    def _usable(self, found: list[list[list[Any]]], number: int) -> Iterator[Table]:
        """The tables of two or more rows and columns, half of whose cells have text: others are frames and drawings."""
        for rows in found:
            table = make_table(([cell or "" for cell in row] for row in rows), page=number)
            if table is None or len(table.rows) < 2 or len(table.rows[0]) < 2:
                continue
            filled = sum(bool(cell) for row in table.rows for cell in row)
            if 2 * filled >= len(table.rows) * len(table.rows[0]):
                yield table

    def _title(self) -> str | None:
        title = one_line(self._document.get_metadata_value("Title"))
        is_name = title.lower().startswith(("untitled", "microsoft word - ")) or title.lower().endswith(
            (".doc", ".docx", ".dvi", ".indd", ".pdf", ".tex", ".xls", ".xlsx")
        )
        return None if is_name or len(title) < 2 else title
