"""Rows of an old platform as documents of the writer."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from operations.adopt.documents import OldDocument, make, require_possible
from operations.adopt.errors import BadDocument, MappingError
from operations.adopt.mapping import ChunkColumns, Chunks, DocumentColumns, Documents, Files, Mapping, Milvus
from operations.adopt.rows import id_text

pytestmark = pytest.mark.unit

CHUNK = {"vector_id": 5, "content": "Words."}


def made(
    *chunks: dict[str, Any], files: Files | None = None, texts: dict[str, str | None] | None = None, **row: Any
) -> OldDocument:
    mapping = Mapping(
        documents=Documents(
            table="t",
            columns=DocumentColumns(doc_id="id", title="name"),
            source_types={"PDF": "pdf"},
            default_source_type="text",
        ),
        chunks=Chunks(table="c", columns=ChunkColumns(doc_id="f", order="n", vector_id="v", content="body")),
        milvus=Milvus(model="m", vector="v", collection="kb"),
        files=files,
    )
    return make(mapping, {"doc_id": 1, "title": "T"} | row, chunks or [CHUNK], texts)


@pytest.mark.parametrize(("old", "ours"), [("PDF", "pdf"), ("word", "word"), ("docx", "text"), (None, "text")])
def test_source_type_is_mapped_kept_or_the_default(old: str | None, ours: str) -> None:
    assert made(source_type=old).document.source_type == ours


def test_numbers_become_text_where_text_is_wanted() -> None:
    document = made(business_tag=7, page_count=Decimal("3")).document
    assert (document.doc_id, document.business_tag, document.page_count) == ("1", "7", 3)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"title": b"x"}, "title must be text, is bytes: convert it in a query"),
        ({"page_count": "three"}, "page_count must be a whole number, is 'three'"),
        ({"page_count": 1.5}, "page_count must be a whole number, is 1.5"),
        ({"page_count": float("nan")}, "page_count must be a whole number, is nan"),
    ],
)
def test_value_of_another_type_fails_the_document(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadDocument, match=f"^{reason}$"):
        made(**row)


def test_parent_is_found_by_the_old_id() -> None:
    first, second = {**CHUNK, "id": 70, "parent": None}, {**CHUNK, "id": 71, "parent": 70}
    assert [chunk.parent for chunk in made(first, second).document.chunks or ()] == [None, 0]
    with pytest.raises(BadDocument, match=r"^chunks\[0\].parent: the document has no chunk '70'$"):
        made(second)


def test_missing_text_and_missing_id_fail_the_document() -> None:
    with pytest.raises(BadDocument, match=r"^chunks\[0\].content is missing$"):
        made({"vector_id": 5})
    with pytest.raises(BadDocument, match=r"^chunks\[0\].content is missing in Milvus, id 5$"):
        made({"vector_id": 5}, texts={})
    with pytest.raises(BadDocument, match=r"^chunks\[0\].vector_id is missing$"):
        made({"content": "Words."})


def test_object_key_follows_the_template() -> None:
    files = Files(bucket="old", key="uploads/{doc_id}/{file}")
    assert made(files=files, file="a.pdf").file_key == "uploads/1/a.pdf"
    assert made(files=files, file=None).file_key is None
    assert made(files=Files(bucket="old", key="{doc_id}.pdf")).file_key == "1.pdf"


def test_impossible_documents_are_refused_before_their_chunks_are_read() -> None:
    for doc_id, chunks, reason in (("a/b", 1, "doc_id "), ("x" * 65, 1, "doc_id "), ("a", 0, "chunks must be 1 to")):
        with pytest.raises(BadDocument, match=f"^{reason}"):
            require_possible(doc_id, chunks)


def test_binary_doc_id_is_refused() -> None:
    assert id_text(UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    with pytest.raises(MappingError, match="is bytes: convert it in a query"):
        id_text(b"x")
