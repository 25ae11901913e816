"""Reads plain text, Markdown and reStructuredText."""

from producer.processing.chunk import headings
from producer.processing.extract.cleaning import clean
from producer.processing.extract.encodings import decode
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.port import Content, Passage


def read_plain(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of text without headings. Raises Undecodable."""
    return Content([Passage(decode(raw))], is_markdown=False)


def read_markdown(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of Markdown; the title is the first heading that has text. Raises Undecodable."""
    text = clean(decode(raw))
    title = next((heading.title for heading in headings.find(text) if heading.title), None)
    return Content([Passage(text)], is_markdown=True, title=title)
