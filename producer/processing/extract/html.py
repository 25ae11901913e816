"""Reads web pages: the main content of a page as Markdown and tables, without navigation, headers and footers.

Nothing is fetched: images, styles, frames and links of the page are left alone.
"""

import re
from contextlib import suppress
from typing import Any

import lxml.html
import trafilatura
from lxml import etree

from producer.processing.extract.cleaning import one_line
from producer.processing.extract.encodings import Undecodable, decode, decode_as, find_declared
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.markup import first_heading, read_elements, text_of
from producer.processing.extract.port import Content, Unreadable

_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_BOILERPLATE = ("nav", "header", "footer", "aside", "form", "menu")
_ROLES = ("navigation", "banner", "contentinfo", "search", "complementary")
_LEAST_SHARE = 0.5  # of the page's words that the main content must have
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,2}")


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of web pages. Raises Undecodable and Unreadable."""
    text = _XML_DECLARATION.sub("", _decode(raw))
    if not text.strip():
        return Content([], is_markdown=True)
    page = _parse(text)
    title = next((text_of(found) for found in page.iter("title")), "") or None
    language = page.get("lang") or page.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
    blocks = read_elements(_main_content(page, text))
    return Content(
        blocks,
        is_markdown=True,
        title=title or first_heading(blocks),
        language=language if _LANGUAGE.fullmatch(language) else None,
    )


def _parse(text: str) -> Any:
    try:
        page = lxml.html.document_fromstring(text, parser=lxml.html.HTMLParser(no_network=True, huge_tree=False))
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable(f"damaged: {one_line(str(error))}") from error
    for element in page.iter():
        if isinstance(element.tag, str) and ":" not in element.tag:
            with suppress(ValueError):  # browsers show elements with impossible names, such as <div{%>
                element.tag = etree.QName(element).localname.lower()
    return page


def _main_content(page: Any, text: str) -> Any:
    """The element that the page marks as its main content, or what trafilatura takes for it, or all but boilerplate."""
    whole = next(page.iter("body"), page)
    for element in [each for each in whole.iter() if _is_boilerplate(each)]:
        element.drop_tree()
    words = len(text_of(whole))
    marked = [*whole.iter("main"), *whole.xpath("//*[@role='main']"), *whole.iter("article")]
    for element in marked:
        if len(text_of(element)) >= _LEAST_SHARE * words:
            return element
    found = trafilatura.bare_extraction(text, include_comments=False, include_tables=True, favor_recall=True)
    body = getattr(found, "body", None)
    if body is None:
        return whole
    body = _as_html(body)
    if len(text_of(body)) < _LEAST_SHARE * words or _marks(body) < _LEAST_SHARE * _marks(whole):
        return whole
    return body


def _marks(element: Any) -> int:
    """The number of headings and tables: trafilatura falls back to a text without them."""
    return sum(1 for _ in element.iter("h1", "h2", "h3", "h4", "h5", "h6", "table"))


def _is_boilerplate(element: Any) -> bool:
    if not isinstance(element.tag, str) or element.getparent() is None:
        return False
    inside = element.getparent().tag in ("article", "main", "section")  # there a header belongs to the text
    return (element.tag in _BOILERPLATE and not (inside and element.tag in ("header", "footer"))) or (
        element.get("role") in _ROLES
    )


def _as_html(body: Any) -> Any:
    """trafilatura's result, whose elements have names of TEI, with names of HTML."""
    for element in body.iter():
        match element.tag:
            case "head":
                rend = element.get("rend") or "h2"
                element.tag = rend if re.fullmatch("h[1-6]", rend) else "h2"
            case "list":
                element.tag = "ul"
            case "item":
                element.tag = "li"
            case "row":
                element.tag = "tr"
            case "cell":
                element.tag = "th" if element.get("role") == "head" else "td"
            case "lb":
                element.tag = "br"
            case "quote":
                element.tag = "blockquote"
            case "code" if element.getparent() is body:
                element.tag = "pre"
            case "hi" | "ref":
                element.tag = "span"
    return body


def _decode(raw: bytes) -> str:
    """The page's text in the encoding that its byte order mark or the page itself names, or in a certain one."""
    declared = find_declared(raw)
    text = None if declared is None else decode_as(raw, declared)
    if text is None:
        return decode(raw)
    if "\0" in text:
        raise Undecodable(f"NUL character at {text.index(chr(0))}: this looks like a binary file", 0)
    return text
