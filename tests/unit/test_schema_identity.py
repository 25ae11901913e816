"""Identities equal those that sha256sum computes, so a service in any language gets the same ones.

hash=$(printf %s alpha | sha256sum | cut -c1-64)
printf '%s\\0%s\\0%s' doc-1 "$hash" 0 | sha256sum | cut -c1-32
"""

import re

import pytest

from schema.events import identity

pytestmark = pytest.mark.unit

ALPHA = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"
BETA = "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753"
GAMMA = "be9d587defa1f0c09ef49eb17e206983a5f8f8289e4281860bd0ee5a19592c67"

FIRST_ALPHA = "8c78fe5e8d93c8762ee6ef8ed841ca24"  # of doc-1
SECOND_ALPHA = "b51fb76e36271633a51a4dcaea46d427"
THIRD_ALPHA = "1908734557e228cda236e21fe5652f7c"
FIRST_BETA = "22cf008bad59f56e16bdf1bb6a37abcf"
FIRST_GAMMA = "4ccf6b2654dbf237392de788a6621f88"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("alpha", ALPHA),
        ("naïve 😀", "53c2bbca83e9f8b55d56a8687056c5027b4245348977848d28fb3aaa01abccff"),
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ],
)
def test_content_hash_is_sha256_of_the_utf8_text(content: str, expected: str) -> None:
    assert identity.content_hash(content) == expected


@pytest.mark.parametrize(
    ("doc_id", "content_hash", "occurrence", "expected"),
    [
        ("doc-1", ALPHA, 0, FIRST_ALPHA),
        ("doc-1", ALPHA, 1, SECOND_ALPHA),
        ("doc-1", BETA, 0, FIRST_BETA),
        ("doc-2", ALPHA, 0, "f92bf24db30c400359949dafd2d9dcf7"),
        ("Doc-1", ALPHA, 0, "08f5c3b802e0d05a9049ee79f69b729b"),
        ("手册-😀", ALPHA, 0, "09806c259968b0bafcdd5700bddd1340"),
    ],
)
def test_chunk_id_depends_on_document_text_and_occurrence(
    doc_id: str, content_hash: str, occurrence: int, expected: str
) -> None:
    assert identity.chunk_id(doc_id, content_hash, occurrence) == expected


def test_equal_texts_get_different_ids_by_occurrence() -> None:
    ids = identity.chunk_ids("doc-1", [ALPHA, BETA, ALPHA, ALPHA])
    assert ids == [FIRST_ALPHA, FIRST_BETA, SECOND_ALPHA, THIRD_ALPHA]


def test_text_keeps_its_id_when_other_chunks_change() -> None:
    assert identity.chunk_ids("doc-1", [ALPHA, BETA]) == [FIRST_ALPHA, FIRST_BETA]
    assert identity.chunk_ids("doc-1", [BETA, GAMMA, ALPHA]) == [FIRST_BETA, FIRST_GAMMA, FIRST_ALPHA]
    assert identity.chunk_ids("doc-1", [BETA]) == [FIRST_BETA]
    assert identity.chunk_ids("doc-1", []) == []


def test_event_ids_are_uuid7_in_order_of_creation() -> None:
    ids = [identity.event_id() for _ in range(100)]
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id_) for id_ in ids)
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    "doc_id",
    [
        "doc-1",
        "a",
        "two words",
        "dots.inside..are.fine",
        "a=b?c&d%20#e",
        "手册-😀",
        "x" * 64,
        "é" * 32,  # 64 bytes
        "😀" * 16,  # 64 bytes
    ],
)
def test_valid_document_id_has_no_error(doc_id: str) -> None:
    assert identity.doc_id_error(doc_id) is None


@pytest.mark.parametrize(
    ("doc_id", "words"),
    [
        (None, "must be a string"),
        (7, "must be a string"),
        (b"doc-1", "must be a string"),
        ("", "must not be empty"),
        ("x" * 65, "at most 64 bytes of UTF-8, has 65"),
        ("é" * 33, "at most 64 bytes of UTF-8, has 66"),
        ("😀" * 17, "at most 64 bytes of UTF-8, has 68"),
        ("half \ud83d", "lone surrogate"),
        ("line\nbreak", "control characters"),
        ("nul\0", "control characters"),
        ("tab\t", "control characters"),
        ("right-to-left \u202e", "control characters"),
        ("zero width \u200b", "control characters"),
        (" doc-1", "space"),
        ("doc-1 ", "space"),
        (" ", "space"),
        ("a/b", "must not contain /"),
        ("a\\b", "must not contain /"),
        ("/", "must not contain /"),
        (".", "start with a dot"),
        ("..", "start with a dot"),
        (".hidden", "start with a dot"),
        ("../other", "must not contain /"),
    ],
)
def test_invalid_document_id_has_an_error(doc_id: object, words: str) -> None:
    error = identity.doc_id_error(doc_id)
    assert error is not None
    assert words in error
