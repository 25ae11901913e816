"""A slice of chunks against the rows of Milvus, as texts: what agrees, and which chunks are looked at again."""

import pytest

from operations.reconcile.chunk_rows import compare_slice
from operations.reconcile.packed_rows import TEXT_END, VALUE_END, pack

pytestmark = pytest.mark.unit


def values(chunk_id: str, doc_id: str = "d", content_hash: str = "hash") -> str:
    [text] = pack([(chunk_id, doc_id, content_hash, "tag", "text", "text", "", "")])
    return text


def expected(chunk_id: str, row_version: int = 2, version: int = 4, marked: int = 1) -> str:
    return values(chunk_id) + TEXT_END + VALUE_END.join(map(str, (row_version, version, marked)))


@pytest.mark.parametrize("doc_version", [2, 3, 4])
def test_row_of_any_version_since_its_last_event_agrees(doc_version: int) -> None:
    assert compare_slice([expected("a")], {values("a"): doc_version}) == {}


@pytest.mark.parametrize("doc_version", [1, 5, 0, -1])
def test_row_of_another_version_is_looked_at_again(doc_version: int) -> None:
    assert compare_slice([expected("a")], {values("a"): doc_version}) == {"a": {"d"}}


def test_unmarked_and_missing_rows_are_looked_at_again() -> None:
    texts = [expected("a", marked=0), expected("b"), expected("c")]
    assert compare_slice(texts, {values("a"): 2, values("c"): 2}) == {"a": {"d"}, "b": {"d"}}


def test_chunk_of_an_unsettled_document_is_skipped_whatever_milvus_holds() -> None:
    assert compare_slice(["a", "b"], {values("a", content_hash="other"): 9}) == {}


def test_row_that_no_chunk_has_is_looked_at_again() -> None:
    assert compare_slice([expected("a")], {values("a"): 2, values("b", "other"): 1}) == {"b": {"other"}}
    assert compare_slice([], {values("", "other"): 1}) == {"": {"other"}}


def test_row_with_other_values_is_looked_at_with_both_documents() -> None:
    assert compare_slice([expected("a")], {values("a", "other"): 2}) == {"a": {"d", "other"}}
