"""Calls the extractor of a format, and makes one bounded result of what it finds."""

from importlib import import_module
from typing import cast

from producer.processing.chunk import headings
from producer.processing.extract import text as text_files
from producer.processing.extract.assemble import assemble
from producer.processing.extract.cleaning import one_line
from producer.processing.extract.formats import MARKDOWN, Format
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Extracted, Extractor, Unreadable


def read_format(raw: bytes, each: Format, limits: ExtractLimits, sha256: str) -> Extracted:
    """The content of the bytes of a file; the title is empty if the file has none. Raises Unreadable or Undecodable."""
    content = _extractor(each)(raw, limits)
    text, tables, scanned = assemble(content, limits)
    if not text:
        raise Unreadable("no text in it: the file is empty or blank")
    return Extracted(
        text=text,
        source_type=each.source_type,
        title=headings.shorten(one_line(content.title or "")),
        content_type=each.content_type,
        language=content.language,
        sha256=sha256,
        size_bytes=len(raw),
        is_markdown=content.is_markdown,
        page_count=content.page_count,
        tables=tables,
        images=tuple(content.images),
        scanned=scanned,
        warnings=tuple(content.warnings),
    )


def _extractor(each: Format) -> Extractor:
    if each.reader is not None:
        return cast(Extractor, import_module(each.reader).read)
    return text_files.read_markdown if each is MARKDOWN else text_files.read_plain
