"""Finds the format of a file by its content, and by its suffix where the content has no signature.

A signature wins over the suffix: a PDF that is called `.docx` is read as a PDF.
"""

from producer.processing.extract import formats
from producer.processing.extract.formats import BY_SUFFIX, Format
from producer.processing.extract.port import Unreadable

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MEMBERS = (  # names of files inside the archive; they are never compressed
    (b"word/document", formats.WORD),
    (b"xl/workbook", formats.EXCEL),
)
_ODS_TYPE = b"application/vnd.oasis.opendocument.spreadsheet"  # the content of the first file, never compressed
_ZIP_END = b"PK\x05\x06"
_BOOKS = ("Workbook".encode("utf-16-le"), "Book".encode("utf-16-le"))  # streams of an OLE file
_SIGNATURES = (
    (b"%PDF-", formats.PDF),
    (b"\x89PNG\r\n\x1a\n", formats.PNG),
    (b"\xff\xd8\xff", formats.JPEG),
    (b"II*\0", formats.TIFF),
    (b"MM\0*", formats.TIFF),
)
_HTML_STARTS = (b"<!doctype html", b"<html")
_LEADING_BYTES = 1_024  # in which a PDF and a web page must begin


def detect(raw: bytes, suffix: str) -> Format:
    """The format of a file; `suffix` is in lower case, with its dot. Raises Unreadable, with the formats that it knows.

    A file of unknown suffix is read only if its content has a signature.
    """
    named = BY_SUFFIX.get(suffix)
    found = _by_signature(raw, named)
    if found is not None:
        return found
    if named is None:
        raise Unreadable(f"unsupported file type {suffix!r}; supported: {' '.join(sorted(BY_SUFFIX))}")
    if named.is_binary:
        raise Unreadable("no text in it: the file is empty" if not raw else f"its content is not that of {named.name}")
    return named


def _by_signature(raw: bytes, named: Format | None) -> Format | None:
    for signature, each in _SIGNATURES:
        if raw.startswith(signature):
            return each
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return formats.WEBP
    if raw.startswith(b"BM") and named is formats.BMP:
        return formats.BMP
    if named is formats.PDF and b"%PDF-" in raw[:_LEADING_BYTES]:  # as PDF readers allow
        return formats.PDF
    if raw.startswith(_ZIP):
        names = _directory(raw)
        found = next((each for member, each in _MEMBERS if member in names), None)
        return formats.ODS if found is None and _ODS_TYPE in raw[:_LEADING_BYTES] else found
    if raw.startswith(_OLE):
        return _in_ole(raw)
    start = raw[:_LEADING_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return formats.HTML if named is None and start.startswith(_HTML_STARTS) else None


def _directory(raw: bytes) -> bytes:
    """The directory of a zip archive, without the names inside a file that is embedded; all of a damaged archive."""
    end = raw.rfind(_ZIP_END)
    size, start = (int.from_bytes(raw[end + at : end + at + 4], "little") for at in (12, 16))
    is_whole = end >= 0 and raw.startswith(b"PK\x01\x02", start) and start + size <= end
    return raw[start : start + size] if is_whole else raw


def _in_ole(raw: bytes) -> Format | None:
    if "EncryptedPackage".encode("utf-16-le") in raw:
        raise Unreadable("it is encrypted: remove its password")
    if any(stream in raw for stream in _BOOKS):
        return formats.OLD_EXCEL
    if "WordDocument".encode("utf-16-le") in raw:
        raise Unreadable("an old Word file (.doc): save it as .docx")
    return None
