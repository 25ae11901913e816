"""The formats that are read: suffixes, types, the extra with their libraries, and the module that reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Format:
    """`reader` is the module with the extractor `read`; None for text, which is read in this process."""

    name: str  # "a PDF", for messages
    source_type: str  # a value of documents.source_type
    content_type: str  # media type
    suffixes: tuple[str, ...]  # in lower case
    reader: str | None = None
    extra: str | None = None
    libraries: tuple[str, ...] = ()  # import names that the extra brings
    is_binary: bool = False  # its bytes begin with a signature

    def missing_extra(self) -> str | None:
        """The extra that is not installed, or None."""
        return self.extra if any(find_spec(name) is None for name in self.libraries) else None


_HERE = __package__
_SHEETS = ("python_calamine",)

PLAIN = Format("plain text", "text", "text/plain", (".txt", ".text", ".log"))
MARKDOWN = Format("Markdown", "text", "text/markdown", (".md", ".markdown"))
RST = Format("reStructuredText", "text", "text/x-rst", (".rst",))
CSV = Format("a CSV file", "table", "text/csv", (".csv", ".tsv"), f"{_HERE}.csv_table")
HTML = Format(
    "a web page",
    "webpage",
    "text/html",
    (".html", ".htm", ".xhtml"),
    f"{_HERE}.html",
    "html",
    ("lxml", "lxml_html_clean", "trafilatura"),
)
PDF = Format(
    "a PDF", "pdf", "application/pdf", (".pdf",), f"{_HERE}.pdf", "pdf", ("pypdfium2", "pdfplumber", "PIL"), True
)
WORD = Format(
    "a Word file",
    "word",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    (".docx", ".docm"),
    f"{_HERE}.word",
    "office",
    ("mammoth", "lxml", "PIL"),
    True,
)
EXCEL = Format(
    "an Excel file",
    "table",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    (".xlsx", ".xlsm", ".xlsb"),
    f"{_HERE}.spreadsheet",
    "office",
    _SHEETS,
    True,
)
OLD_EXCEL = Format(
    "an old Excel file", "table", "application/vnd.ms-excel", (".xls",), f"{_HERE}.spreadsheet", "office", _SHEETS, True
)
ODS = Format(
    "an OpenDocument spreadsheet",
    "table",
    "application/vnd.oasis.opendocument.spreadsheet",
    (".ods",),
    f"{_HERE}.spreadsheet",
    "office",
    _SHEETS,
    True,
)


def _image(name: str, media_type: str, *suffixes: str) -> Format:
    libraries = ("rapidocr", "onnxruntime", "PIL")
    return Format(name, "image", f"image/{media_type}", suffixes, f"{_HERE}.image", "ocr", libraries, True)


PNG = _image("a PNG image", "png", ".png")
JPEG = _image("a JPEG image", "jpeg", ".jpg", ".jpeg")
TIFF = _image("a TIFF image", "tiff", ".tif", ".tiff")
WEBP = _image("a WebP image", "webp", ".webp")
BMP = _image("a BMP image", "bmp", ".bmp")

FORMATS = (PLAIN, MARKDOWN, RST, CSV, HTML, PDF, WORD, EXCEL, OLD_EXCEL, ODS, PNG, JPEG, TIFF, WEBP, BMP)
BY_CONTENT_TYPE: Mapping[str, Format] = MappingProxyType(
    {each.content_type: each for each in FORMATS}
    | {
        "application/csv": CSV,
        "application/x-pdf": PDF,
        "application/xhtml+xml": HTML,
        "text/tab-separated-values": CSV,
        "text/x-markdown": MARKDOWN,
    }
)
BY_SUFFIX: Mapping[str, Format] = MappingProxyType(
    {suffix: each for each in FORMATS for suffix in each.suffixes},
)
