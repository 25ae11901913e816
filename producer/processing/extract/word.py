"""Reads Word files (.docx) with mammoth: headings, paragraphs, lists, tables and images, in their order."""

import io
import zipfile
from typing import Any

import lxml.html
import mammoth
from lxml import etree

from producer.processing.extract import archive
from producer.processing.extract.cleaning import one_line
from producer.processing.extract.limits import ExtractLimits
from producer.processing.extract.markup import read_elements
from producer.processing.extract.pictures import Gallery
from producer.processing.extract.port import Content, Unreadable

_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => h2:fresh"
_CORE = "docProps/core.xml"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_LANGUAGE = "{http://purl.org/dc/elements/1.1/}language"


def read(raw: bytes, limits: ExtractLimits) -> Content:
    """`Extractor` of Word files. Raises Unreadable. Page headers, footers, comments and deleted text are left out."""
    archive.require_bounded(raw, limits)
    gallery = Gallery(limits)

    def keep(image: Any) -> dict[str, str]:
        with image.open() as stream:
            gallery.add_encoded(stream.read())
        return {"src": ""}

    try:
        result = mammoth.convert_to_html(
            io.BytesIO(raw),
            style_map=_STYLES,
            convert_image=mammoth.images.img_element(keep),
            include_embedded_style_map=False,
            external_file_access=False,
        )
        title, language = _properties(raw)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError, OSError, RecursionError, SyntaxError) as error:
        raise Unreadable(f"damaged: {type(error).__name__}: {one_line(str(error))}") from error
    blocks = read_elements(lxml.html.fromstring(f"<body>{result.value}</body>"))
    return Content(
        blocks,
        is_markdown=True,
        images=gallery.images,
        title=title,
        language=language,
        warnings=gallery.warnings(),
    )


def _properties(raw: bytes) -> tuple[str | None, str | None]:
    """Title and language that the author gave the file."""
    with zipfile.ZipFile(io.BytesIO(raw)) as files:
        if _CORE not in files.namelist():
            return None, None
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        core = etree.fromstring(files.read(_CORE), parser)
    title, language = (one_line(core.findtext(name) or "") for name in (_TITLE, _LANGUAGE))
    return title or None, language if 2 <= len(language) <= 16 else None
