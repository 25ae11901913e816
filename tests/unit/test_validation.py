"""Invariant 13 without a store: values at their limits are accepted, and every refusal names its field."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import Chunk, Document, DocumentFile, InvalidDocument
from producer.validation import validate
from tests.support.bad_documents import GOOD
from tests.support.pipeline import MODEL, chunk, document

pytestmark = pytest.mark.unit


def check(document: Document) -> list[bytes | None]:
    return validate(document, MODEL, 8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("doc_id", "x" * 64),
        ("doc_id", "é" * 32),
        ("doc_id", "文" * 21 + "x"),
        ("doc_id", "😀" * 16),
        ("doc_id", "a b..c"),
        ("title", "😀" * 512),
        ("title", "x"),
        ("source_url", "é" * 1_024),
        ("source_url", ""),
        ("business_tag", "é" * 64),
        ("business_tag", None),
        ("domain", "文" * 64),
        ("language", "文" * 16),
        ("page_count", 0),
        ("page_count", 2_147_483_647),
        ("source_type", "webpage"),
        ("embedding_model", "test-model"),
        ("text", DocumentFile.from_bytes(b"", "a.txt")),
        ("file", DocumentFile.from_bytes(b"x" * 65_536, "a.abcdefghijklmnop")),
        ("file", DocumentFile.from_bytes(b"x", "Makefile")),
    ],
)
def test_document_field_at_its_limit_is_accepted(field: str, value: object) -> None:
    assert len(check(replace(document("d", "one"), **{field: value}))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content", "x" * 65_535),
        ("content", "文" * 21_845),
        ("content", "line one\r\n\tline two\n"),
        ("vector_level", "cell"),
        ("modal_type", "é" * 8),
        ("associate_id", "😀" * 16),
        ("associate_id", ""),
        ("strategy", "文" * 32),
        ("parent", 0),
        ("start_char", 0),
        ("start_char", 2_147_483_647),
        ("vector", None),
        ("vector", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("vector", tuple(GOOD)),
        ("vector", [0, 0, 0, 0, 0, 0, 0, 1.8e19]),
        ("vector", np.array(GOOD, "float16")),
        ("vector", np.array(GOOD, ">f8")),
        ("sparse", {}),
        ("sparse", {0: 1, 2**32 - 2: 3.4e38, 7: 1.2e-38}),
        ("sparse", {np.int64(5): np.float16(0.5), np.uint32(6): np.float32(2)}),
        ("sparse", dict.fromkeys(range(4_096), 0.5)),
    ],
)
def test_chunk_field_at_its_limit_is_accepted(field: str, value: object) -> None:
    changed = replace(chunk("two"), **{field: value})  # type: ignore[arg-type]
    assert len(check(replace(document("d"), chunks=[chunk("one"), changed]))) == 2


@pytest.mark.parametrize(
    "vector",
    [GOOD, list(GOOD), np.array(GOOD), np.array(GOOD, "<f4"), np.array(GOOD, ">f4"), np.repeat(np.array(GOOD), 2)[::2]],
)
def test_vector_becomes_little_endian_float32(vector: Any) -> None:
    [found] = check(replace(document("d"), chunks=[Chunk(content="one", vector=vector)]))
    assert found is not None
    assert found.hex() == "cdcccc3dcdcc4c3e9a99993ecdcccc3e0000003f9a99193f3333333fcdcc4c3f"


def test_equal_content_is_accepted_at_different_places() -> None:
    chunks = [chunk("same", start_char=0), chunk("same", start_char=4), chunk("same"), chunk("same")]
    table = [chunk("same", start_char=0, vector_level="row"), chunk("same", start_char=0, associate_id="a")]
    assert len(check(replace(document("d"), chunks=[*chunks, *table]))) == 6


def test_every_problem_of_document_is_named() -> None:
    bad = Document(
        doc_id="../x",
        title="",
        source_type="excel",
        business_tag="x" * 129,
        page_count=-1,
        chunks=[
            Chunk(content="", vector=GOOD[:7], parent=0),
            Chunk(content="fine", vector=[*GOOD[:7], float("nan")], modal_type="\n"),
        ],
    )

    with pytest.raises(InvalidDocument) as refused:
        check(bad)

    assert [problem.field for problem in refused.value.problems] == [
        "doc_id",
        "title",
        "source_type",
        "business_tag",
        "page_count",
        "chunks[0].content",
        "chunks[0].parent",
        "chunks[0].vector",
        "chunks[1].modal_type",
        "chunks[1].modal_type",
        "chunks[1].vector",
    ]
    assert str(refused.value) == (
        "document '../x': doc_id must not contain / or \\, nor start with a dot: it names files in the object store; "
        "title must not be empty; "
        "source_type must be one of pdf, word, image, webpage, table, text, is 'excel'; "
        "business_tag must be at most 128 bytes of UTF-8, has 129; "
        "page_count must be a whole number from 0 to 2147483647, is -1; "
        "chunks[0].content must not be empty; "
        "chunks[0].parent must be the position of another chunk (there are 2), is 0; "
        "chunks[0].vector must have 8 dimensions, has 7; "
        "chunks[1].modal_type must not be empty; "
        "chunks[1].modal_type must not contain control characters; "
        "and 1 more"
    )


ODD_VALUES: dict[str, Callable[[], Any]] = {
    "number": lambda: 5,
    "negative": lambda: -5,
    "fraction": lambda: 5.5,
    "NaN": lambda: float("nan"),
    "True": lambda: True,
    "bytes": lambda: b"\xff",
    "bytearray": lambda: bytearray(b"x"),
    "string": lambda: "\ud800\0",
    "list": lambda: [["x"], None],
    "dict": lambda: {"x": 1},
    "set": lambda: {1},
    "object": object,
    "class": lambda: Chunk,
    "function": lambda: len,
    "array": lambda: np.array([1.0, 2.0]),
    "numpy number": lambda: np.int64(-5),
    "chunk": lambda: chunk("x"),
    "document": lambda: document("x", "y"),
    "generator": lambda: (number for number in range(3)),
}
FITS = {("page_count", "number"), ("start_char", "number")}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_value_of_wrong_type_is_refused_by_field_name(value: Callable[[], Any]) -> None:
    name = next(name for name, build in ODD_VALUES.items() if build is value)
    for field in (field.name for field in fields(Document)):
        if (field, name) not in FITS:
            with pytest.raises(InvalidDocument) as refused:
                check(replace(document("d", "one"), **{field: value()}))
            assert {problem.field.split("[")[0] for problem in refused.value.problems} == {field}
    for field in (field.name for field in fields(Chunk)):
        if (field, name) not in FITS:
            wrong = replace(chunk("two", start_char=0, associate_id="a"), **{field: value()})
            with pytest.raises(InvalidDocument) as refused:
                check(replace(document("d"), chunks=[chunk("one"), wrong]))
            assert {problem.field for problem in refused.value.problems} == {f"chunks[1].{field}"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\0b", "must not contain control characters"),
        ("a\x7fb", "must not contain control characters"),
        ("a\x80b", "must not contain control characters"),
        ("文\x9f", "must not contain control characters"),
        ("a\ud800b", "must be valid Unicode, has a lone surrogate at character 1"),
        (" \n\u3000", "must not be empty"),
        ("文" * 21_845 + "x", "must be at most 65535 bytes of UTF-8, has 65536"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])  # a chunk with the labels of a valid chunk takes a faster path
def test_bad_content_is_refused_at_any_position(position: int, content: str, words: str) -> None:
    chunks = [chunk("one"), chunk("two"), chunk("three")]
    chunks[position] = replace(chunks[position], content=content)

    with pytest.raises(InvalidDocument) as refused:
        check(replace(document("d"), chunks=chunks))

    assert str(refused.value) == f"document 'd': chunks[{position}].content {words}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda some: st.lists(some, max_size=9) | st.dictionaries(st.text(max_size=9), some, max_size=3),
    max_leaves=12,
)


@given(data=st.data())
def test_any_json_value_is_accepted_or_refused(data: st.DataObject) -> None:
    def odd(cls: type) -> dict[str, Any]:
        return data.draw(st.dictionaries(st.sampled_from([field.name for field in fields(cls)]), JSON, max_size=3))

    chunks = [replace(chunk(content), **odd(Chunk)) for content in ("one", "two")]
    given = replace(document("d"), **{"chunks": chunks, **odd(Document)})
    try:
        vectors, refused = check(given), None
    except InvalidDocument as error:
        vectors, refused = [], error
    if refused is None:
        assert len(vectors) == len(given.chunks or ())
    else:
        assert refused.problems
        assert str(refused).encode()  # even invalid Unicode can be printed
