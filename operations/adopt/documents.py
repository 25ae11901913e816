"""Rows of the old platform as documents of the writer, without their vectors and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from operations.adopt.errors import BadDocument
from operations.adopt.mapping import Documents, Files
from operations.adopt.mapping import Mapping as AdoptMapping
from operations.adopt.rows import Row, id_text
from producer import Chunk, Document
from schema.database.tables import SOURCE_TYPES
from schema.events.identity import doc_id_error
from schema.limits import CHUNKS_PER_DOCUMENT


@dataclass(frozen=True)
class OldDocument:
    """A document, the key of its file, and the id of each chunk's vector, in the order of the chunks."""

    document: Document
    file_key: str | None
    vector_ids: Sequence[str]


def doc_id_of(row: Row) -> str:
    return id_text(row["doc_id"])


def require_possible(doc_id: str, chunks: int) -> None:
    """Raises BadDocument before the chunks of a document are read, if they need not be."""
    if wrong := doc_id_error(doc_id):
        raise BadDocument(f"doc_id {wrong}")
    if not 1 <= chunks <= CHUNKS_PER_DOCUMENT:
        raise BadDocument(f"chunks must be 1 to {CHUNKS_PER_DOCUMENT} chunks, there are {chunks}")


def make(
    mapping: AdoptMapping, row: Row, chunk_rows: Sequence[Row], texts: Mapping[str, str | None] | None
) -> OldDocument:
    """Raises BadDocument. `texts` (by vector id) come from Milvus; without them, the chunks have their own."""
    doc_id = doc_id_of(row)
    vector_ids = [_require_id(chunk, position) for position, chunk in enumerate(chunk_rows)]
    document = Document(
        doc_id=doc_id,
        title=_text(row, "title") or "",
        source_type=_source_type(mapping.documents, row),
        page_count=_number(row, "page_count"),
        chunks=_chunks(chunk_rows, vector_ids, texts),
        embedding_model=mapping.milvus.model,
        source_url=_text(row, "source_url"),
        business_tag=_text(row, "business_tag"),
        domain=_text(row, "domain"),
        language=_text(row, "language"),
    )
    return OldDocument(document, _file_key(mapping.files, doc_id, row), vector_ids)


def _source_type(documents: Documents, row: Row) -> str:
    given = _text(row, "source_type")
    if given is None:
        return documents.default_source_type or ""
    ours = documents.source_types.get(given)
    if ours is not None:
        return ours
    return given if given in SOURCE_TYPES or documents.default_source_type is None else documents.default_source_type


def _chunks(rows: Sequence[Row], vector_ids: Sequence[str], texts: Mapping[str, str | None] | None) -> list[Chunk]:
    ids = [str(row["id"]) for row in rows] if rows and "id" in rows[0] else vector_ids
    position_of = {id_: position for position, id_ in enumerate(ids)}
    chunks = []
    for position, row in enumerate(rows):
        name = f"chunks[{position}]"
        content = _text(row, "content", name) if texts is None else texts.get(vector_ids[position])
        if content is None:
            where = "" if texts is None else f" in Milvus, id {vector_ids[position]}"
            raise BadDocument(f"{name}.content is missing{where}")
        parent = _text(row, "parent", name)
        if parent is not None and parent not in position_of:
            raise BadDocument(f"{name}.parent: the document has no chunk {parent!r}")
        chunks.append(
            Chunk(
                content=content,
                vector_level=_text(row, "vector_level", name) or "text",
                modal_type=_text(row, "modal_type", name) or "text",
                associate_id=_text(row, "associate_id", name),
                start_char=_number(row, "start_char", name),
                parent=None if parent is None else position_of[parent],
            )
        )
    return chunks


def _require_id(row: Row, position: int) -> str:
    vector_id = _text(row, "vector_id", f"chunks[{position}]")
    if vector_id is None:
        raise BadDocument(f"chunks[{position}].vector_id is missing")
    return vector_id


def _file_key(files: Files | None, doc_id: str, row: Row) -> str | None:
    """The key of the document's file; None if it has none."""
    if files is None:
        return None
    file = _text(row, "file")
    if "{file}" in files.key and not file:
        return None
    return files.key.format(doc_id=doc_id, file=file)


def _text(row: Row, name: str, inside: str = "") -> str | None:
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | UUID | Decimal) and not isinstance(value, bool):
        return str(value)
    raise BadDocument(f"{_at(inside, name)} must be text, is {type(value).__name__}: convert it in a query")


def _number(row: Row, name: str, inside: str = "") -> int | None:
    value = row.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, Decimal | float) and value % 1 == 0:
        return int(value)
    raise BadDocument(f"{_at(inside, name)} must be a whole number, is {value!r}")


def _at(inside: str, name: str) -> str:
    return f"{inside}.{name}" if inside else name
