"""Turns the elements of a page into passages of Markdown and tables, for web pages and for Word files."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from producer.processing.extract.cleaning import clean, one_line
from producer.processing.extract.port import Passage, Table, Unreadable
from producer.processing.extract.tables import make_table

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {
    *(
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
    ),
    *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "html", "legend", "li"),
    *("main", "menu", "nav", "ol", "p", "section", "summary", "ul"),
}
_SKIPPED = {"head", "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "canvas", "select"}
_SKIPPED |= {"button", "input", "textarea", "audio", "video", "map", "datalist"}
_PERMALINKS = {"#", "\u00b6"}  # of a heading to itself
_MAX_SPAN = 1_000  # columns or rows that one cell may fill
_SPACE = re.compile(r"[ \t\r\n\f]+")


class _Writer:
    """Collects inline text until a block ends."""

    def __init__(self) -> None:
        self.blocks: list[Passage | Table] = []
        self._inline: list[str] = []
        self._prefix = ""

    def add(self, text: str) -> None:
        self._inline.append(text)

    def end_block(self, prefix: str = "") -> None:
        """End the block; the next one begins with `prefix`."""
        lines = (_SPACE.sub(" ", line).strip() for line in "".join(self._inline).split("\0"))
        text = "\n".join(line for line in lines if line)
        self._inline = []
        if text:
            self.put(f"{self._prefix}{text}")
            self._prefix = ""
        self._prefix = prefix or self._prefix

    def drop_prefix(self) -> None:
        self._prefix = ""

    def put(self, text: str) -> None:
        self.blocks.append(Passage(text))


def read_elements(root: Any) -> list[Passage | Table]:
    """The passages and tables of an lxml element, in their order. Raises Unreadable if it is nested too deeply."""
    writer = _Writer()
    try:
        _walk(root, writer, 0)
    except RecursionError as error:
        raise Unreadable("its elements are nested too deeply") from error
    writer.end_block()
    return [*_join_lists(writer.blocks)]


def text_of(element: Any) -> str:
    """All text of an element on one line, without scripts and styles."""
    return one_line("".join(_strings(element)))


def _walk(element: Any, writer: _Writer, depth: int) -> None:
    """Visit the children of an element; `depth` counts the lists around it."""
    if element.text:
        writer.add(element.text)
    for child in element:
        tag = child.tag if isinstance(child.tag, str) else None  # None: a comment
        if tag is not None and tag not in _SKIPPED and not _is_hidden(child):
            _visit(child, tag, writer, depth)
        if child.tail:
            writer.add(child.tail)


def _visit(element: Any, tag: str, writer: _Writer, depth: int) -> None:
    if tag in _HEADINGS:
        writer.end_block()
        writer.drop_prefix()
        for link in [each for each in element.iter("a") if text_of(each) in _PERMALINKS]:
            link.drop_tree()
        if title := text_of(element):
            writer.put(f"{'#' * _HEADINGS[tag]} {title}")
    elif tag == "table":
        writer.end_block()
        _read_table(element, writer, depth)
    elif tag == "pre":
        writer.end_block()
        code = clean("".join(element.itertext())).strip("\n")
        if code.strip():
            fence = "```" if "```" not in code else "~~~~"
            writer.put(f"{fence}\n{code}\n{fence}")
    elif tag == "br":
        writer.add("\0")
    elif tag in ("ul", "ol", "dir", "menu"):
        writer.end_block()
        _walk(element, writer, depth + 1)
        writer.end_block()
        writer.drop_prefix()
    elif tag == "li":
        writer.end_block(f"{'  ' * max(depth - 1, 0)}- ")
        _walk(element, writer, depth)
        writer.end_block()
        writer.drop_prefix()
    elif tag in _BLOCKS:
        writer.end_block()
        _walk(element, writer, depth)
        writer.end_block()
    else:
        _walk(element, writer, depth)


def _join_lists(blocks: Iterable[Passage | Table]) -> Iterator[Passage | Table]:
    """Items of a list that follow each other become one passage."""
    items: list[str] = []
    for block in blocks:
        if isinstance(block, Passage) and block.text.lstrip(" ").startswith("- "):
            items.append(block.text)
            continue
        if items:
            yield Passage("\n".join(items))
            items = []
        yield block
    if items:
        yield Passage("\n".join(items))


def _read_table(element: Any, writer: _Writer, depth: int) -> None:
    """A table of data becomes a `Table`; one that only lays out a page (one column, or tables inside) is walked."""
    rows = [*_own_rows(element)]
    widths = [len([*_cells(row)]) for row in rows]
    if any(True for _ in element.iterdescendants("table")) or max(widths, default=0) < 2:
        for row in rows:
            for cell in _cells(row):
                _walk(cell, writer, depth)
                writer.end_block()
        return
    caption = next((text_of(child) for child in element.iterchildren("caption")), None)
    first = [*_cells(rows[0])]
    in_head = rows[0].getparent().tag == "thead"
    is_header = True if in_head or all(cell.tag == "th" for cell in first) else None
    table = make_table(_fill_spans(rows), has_header=is_header, caption=caption)
    if table:
        writer.blocks.append(table)


def _own_rows(table: Any) -> Iterator[Any]:
    for child in table:
        if child.tag == "tr":
            yield child
        elif child.tag in ("thead", "tbody", "tfoot"):
            yield from child.iterchildren("tr")


def _cells(row: Any) -> Iterator[Any]:
    return row.iterchildren("td", "th")  # type: ignore[no-any-return]


def _fill_spans(rows: list[Any]) -> list[list[str]]:
    """The cells of each row; one that spans several columns or rows is repeated in each."""
    filled: list[list[str]] = []
    spanned: dict[int, tuple[str, int]] = {}  # per column, a cell from above: its text, and for how many rows
    for row in rows:
        texts: list[str] = []
        cells = [(text_of(cell), _span(cell, "colspan"), _span(cell, "rowspan")) for cell in _cells(row)]
        while cells or spanned.get(len(texts), ("", 0))[1]:
            column = len(texts)
            text, left = spanned.get(column, ("", 0))
            if left:
                spanned[column] = (text, left - 1)
                texts.append(text)
                continue
            text, width, height = cells.pop(0)
            for at in range(column, column + width):
                spanned[at] = (text, height - 1)
                texts.append(text)
        filled.append(texts)
    return filled


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1").strip()
    return max(1, min(int(value), _MAX_SPAN)) if value.isascii() and value.isdigit() and len(value) < 9 else 1


def _is_hidden(element: Any) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return element.get("hidden") is not None or "display:none" in style


def _strings(element: Any) -> Iterator[str]:
    for child in element.iter():
        if not isinstance(child.tag, str) or child.tag in _SKIPPED:
            if child.tail and child is not element:
                yield child.tail
            continue
        if child.text:
            yield child.text
        if child.tag in ("br", "p", "div", "li"):
            yield " "
        if child.tail and child is not element:
            yield child.tail
