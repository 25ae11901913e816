"""Reads PDFs: the text of every page with pdfium, ruled tables with pdfplumber, images, and scanned pages by OCR."""

from collections.abc import Sequence
from contextlib import closing

import pypdfium2
import pypdfium2.raw as pdfium

from producer.processing.extract import ocr
from producer.processing.extract.cleaning import one_line
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.pdf_tables import Box, FoundTable, Words, find_tables, put_in_place
from producer.processing.extract.pictures import Gallery, require_few_pixels
from producer.processing.extract.port import Content, Passage, Table, Unreadable

_RULES = range(4, 5_000)  # paths on a page that may have a table: fewer rule no cell, more are a drawing
_OCR_PIXELS = 2_000  # of the longer side of a page; OCR reads no finer ones
_NESTED_FORMS = 3  # levels of forms in which images are looked for
_LINE_END_HYPHENS = ("\ufffe\r\n", "\x02\r\n", "\ufffe\n", "\x02\n")  # pdfium's marks of a word that goes on


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of PDFs. Raises Unreadable."""
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
        self._ruled: list[int] = []  # numbers of the pages that may have a table, from 1
        self._scanned = 0
        self._unread: list[int] = []  # pages without text that no OCR read, from 1
        self._warnings: list[str] = []

    def read(self) -> Content:
        passages = {index: passage for index in range(len(self._document)) if (passage := self._read_page(index))}
        if self._unread and len(self._unread) == len(self._document):
            raise Unreadable("its pages are scanned: reading them needs the extra ocr, pip install 'rag-outbox[ocr]'")
        if self._unread:
            shown = ", ".join(map(str, self._unread[:10])) + (" …" if len(self._unread) > 10 else "")
            self._warnings.append(f"pages without text, which only the extra ocr reads: {shown}")
        found, warnings = find_tables(self._raw, self._ruled)
        blocks, tables = self._place(passages, found)
        return Content(
            blocks,
            is_markdown=False,
            tables=tables,
            images=self._gallery.images,
            page_count=len(self._document),
            title=self._title(),
            warnings=[*self._warnings, *warnings, *self._gallery.warnings()],
        )

    def _place(
        self, passages: dict[int, Passage], found: Sequence[FoundTable]
    ) -> tuple[list[Passage | Table], list[Table]]:
        """The passages of all pages, with tables in the place of their words, and the tables that have no place."""
        of_page: dict[int, list[FoundTable]] = {}
        for each in found:
            of_page.setdefault((each.table.page or 0) - 1, []).append(each)
        blocks: list[Passage | Table] = []
        apart: list[Table] = []
        for index, passage in passages.items():
            here = of_page.pop(index, [])
            placed, left = self._place_on_page(index, passage, here) if here else ([passage], [])
            blocks += placed
            apart += left
        return blocks, apart + [each.table for some in of_page.values() for each in some]

    def _place_on_page(
        self, index: int, passage: Passage, found: Sequence[FoundTable]
    ) -> tuple[Sequence[Passage | Table], list[Table]]:
        if passage.is_scanned:
            return [passage], [each.table for each in found]
        with closing(self._document[index]) as page, closing(page.get_textpage()) as text_page:
            words = [Words(each.table, "" if each.box is None else _text_in(text_page, each.box)) for each in found]
        return put_in_place(passage.text, words)

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
            return _text_in(text_page)

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
            self._ruled.append(index + 1)
        return images

    def _title(self) -> str | None:
        title = one_line(self._document.get_metadata_value("Title"))
        is_name = title.lower().startswith(("untitled", "microsoft word - ")) or title.lower().endswith(
            (".doc", ".docx", ".dvi", ".indd", ".pdf", ".tex", ".xls", ".xlsx")
        )
        return None if is_name or len(title) < 2 else title


def _text_in(text_page: pypdfium2.PdfTextPage, box: Box | None = None) -> str:
    """The text in a box of a page; without a box, on the whole page. A word cut at the end of a line is joined."""
    text = str(text_page.get_text_bounded(*(box or ())))
    for hyphen in _LINE_END_HYPHENS:
        text = text.replace(hyphen, "")
    return text
