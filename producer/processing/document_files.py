"""The files that a document gets from extraction, besides its original: its text, its tables and its images."""

import msgspec

from producer.files import DocumentFile
from producer.processing.extract.port import Extracted, Table
from schema.limits import EXTRACTED_FILES
from schema.object_store.port import ObjectStore


def make_text_file(extracted: Extracted, store: ObjectStore) -> DocumentFile:
    """The extracted text, in UTF-8; a large file is staged in `store`, here and below."""
    return DocumentFile.from_bytes(extracted.text.encode(), "extracted.txt", store)


def make_table_files(extracted: Extracted, store: ObjectStore) -> list[DocumentFile]:
    """The tables as JSON: `rows` of cells, `has_header`, and where they are known `caption` and `page`."""
    return [
        DocumentFile.from_bytes(_encode_table(table), "table.json", store)
        for table in extracted.tables[:EXTRACTED_FILES]
    ]


def make_image_files(extracted: Extracted, store: ObjectStore) -> list[DocumentFile]:
    """The images as PNG."""
    return [DocumentFile.from_bytes(image.png, "image.png", store) for image in extracted.images[:EXTRACTED_FILES]]


def describe_left_out(extracted: Extracted) -> list[str]:
    """What of a file is not in its document: the warnings of its extractor, and files beyond the limit."""
    more = len(extracted.tables) - EXTRACTED_FILES
    tables = [f"{more} tables as files of their own, beyond the first {EXTRACTED_FILES:,}"] if more > 0 else []
    return [*extracted.warnings, *tables]


def _encode_table(table: Table) -> bytes:
    fields = {"caption": table.caption, "page": table.page, "has_header": table.has_header, "rows": table.rows}
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})
