"""Documents that the writer must refuse, each with one wrong field and the words of the error message."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from producer import Chunk, Document, DocumentFile
from tests.support.pipeline import chunk, document

GOOD = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class BadDocument:
    name: str
    document: Callable[[], Any]
    field: str
    words: str


def _document(name: str, field: str, words: str, value: Any) -> BadDocument:
    """A document with one wrong metadata field."""
    return BadDocument(f"{field}: {name}", lambda: replace(document("bad", "one"), **{field: value}), field, words)


def _chunk(name: str, field: str, words: str, value: Any) -> BadDocument:
    """A document of three chunks; the second has one wrong field."""

    def build() -> Document:
        return _with_chunks(chunk("one"), replace(chunk("two"), **{field: value}), chunk("three"))

    return BadDocument(f"chunk {field}: {name}", build, f"chunks[1].{field}", words)


def _with_chunks(*chunks: Any) -> Document:
    return replace(document("bad"), chunks=chunks)


def _file(name: str, words: str, **fields: Any) -> BadDocument:
    file = replace(DocumentFile.from_bytes(b"x", "a.md"), **fields)
    return BadDocument(f"file: {name}", lambda: document("bad", "one", file=file), "file", words)


def _vector(*changes: tuple[int, Any]) -> list[Any]:
    vector: list[Any] = list(GOOD)
    for position, value in changes:
        vector[position] = value
    return vector


_UNSAFE = "must not contain / or \\, nor start with a dot"
_CONTROL = "must not contain control characters"
_EMPTY = "must not be empty"
_NOT_NUMBERS = "must be a list of numbers"
_NATURAL = "must be a whole number from 0 to 2147483647"
_SURROGATE = "must be valid Unicode, has a lone surrogate at character 1"

DOC_IDS = [
    _document("empty", "doc_id", _EMPTY, ""),
    _document("blank", "doc_id", "nor start or end with a space", "   "),
    _document("65 ASCII bytes", "doc_id", "must be at most 64 bytes of UTF-8, has 65", "x" * 65),
    _document("22 characters of 3 bytes", "doc_id", "must be at most 64 bytes of UTF-8, has 66", "文" * 22),
    _document("traversal", "doc_id", _UNSAFE, "../x"),
    _document("slash", "doc_id", _UNSAFE, "a/b"),
    _document("backslash", "doc_id", _UNSAFE, "a\\b"),
    _document("dots", "doc_id", _UNSAFE, ".."),
    _document("hidden", "doc_id", _UNSAFE, ".hidden"),
    _document("NUL", "doc_id", _CONTROL, "a\0b"),
    _document("newline", "doc_id", _CONTROL, "a\n"),
    _document("zero width space", "doc_id", _CONTROL, "a\u200bb"),
    _document("bidi override", "doc_id", _CONTROL, "a\u202egpj.md"),
    _document("leading space", "doc_id", "nor start or end with a space", " a"),
    _document("trailing space", "doc_id", "nor start or end with a space", "a "),
    _document("lone surrogate", "doc_id", "must be valid Unicode (it has a lone surrogate)", "a\ud800"),
    _document("number", "doc_id", "must be a string", 5),
    _document("None", "doc_id", "must be a string", None),
    _document("list", "doc_id", "must be a string", ["a"]),
]
METADATA = [
    _document("empty", "title", _EMPTY, ""),
    _document("blank", "title", _EMPTY, "   "),
    _document("None", "title", _EMPTY, None),
    _document("number", "title", "must be a string, is int", 5),
    _document("513 characters", "title", "must be at most 512 characters, has 513", "x" * 513),
    _document("lone surrogate", "title", _SURROGATE, "a\udfff"),
    _document("escape", "title", _CONTROL, "\x1b[31mred"),
    _document("newline", "title", _CONTROL, "one\ntwo"),
    _document("unknown", "source_type", "must be one of pdf, word, image, webpage, table, text, is 'excel'", "excel"),
    _document("capitals", "source_type", "must be one of pdf, word, image, webpage, table, text, is 'PDF'", "PDF"),
    _document("None", "source_type", "must be one of pdf, word, image, webpage, table, text, is None", None),
    _document("list", "source_type", "must be one of pdf, word", ["pdf"]),
    _document("1,025 characters", "source_url", "must be at most 1024 characters, has 1025", "x" * 1_025),
    _document("bytes", "source_url", "must be a string, is bytes", b"http://x"),
    _document("129 ASCII bytes", "business_tag", "must be at most 128 bytes of UTF-8, has 129", "x" * 129),
    _document("43 characters of 3 bytes", "business_tag", "must be at most 128 bytes of UTF-8, has 129", "文" * 43),
    _document("tab", "business_tag", _CONTROL, "a\tb"),
    _document("list", "business_tag", "must be a string, is list", ["a"]),
    _document("65 characters", "domain", "must be at most 64 characters, has 65", "x" * 65),
    _document("17 characters", "language", "must be at most 16 characters, has 17", "x" * 17),
    _document("negative", "page_count", f"{_NATURAL}, is -1", -1),
    _document("bool", "page_count", f"{_NATURAL}, is True", True),
    _document("fraction", "page_count", f"{_NATURAL}, is 1.5", 1.5),
    _document("over 32 bits", "page_count", f"{_NATURAL}, is 2147483648", 2**31),
    _document("another", "embedding_model", "must be the system's model 'test-model', is 'other'", "other"),
    _document("number", "embedding_model", "must be the system's model 'test-model', is 5", 5),
    _document("a path", "file", "must be a DocumentFile, is str", "a.md"),
    _document("bytes", "text", "must be a DocumentFile, is bytes", b"x"),
    _file("extension that leaves its folder", "must have an extension of 1 to 16", extension="/../../../../etc/x"),
    _file("no extension", "must have an extension of 1 to 16", extension=""),
    _file("neither content nor staged", "must have its content or be staged", content=None),
    _file("staged elsewhere", "must have its content or be staged", content=None, staged_key="models/x"),
    _file("both", "must have its content or be staged", staged_key=f"temp/upload_{'0' * 32}/file"),
    _file("wrong size", "must have its content or be staged", size_bytes=2),
    _file("too large to travel", "must have its content or be staged", content=b"x" * 65_537, size_bytes=65_537),
    _file("content that is text", "must have its content or be staged", content="x"),
    _file("digest that is no hex", "must have a sha256 of 64 lower-case hex digits, has 'nothex'", sha256="nothex"),
    _file("digest in capitals", "must have a sha256 of 64 lower-case hex digits", sha256="A" * 64),
    _file("no digest", "must have a sha256 of 64 lower-case hex digits, has None", sha256=None),
    _file("long type", "must have a content_type of 1 to 128 printable", content_type="x" * 129),
    _file("type with a line break", "must have a content_type of 1 to 128 printable", content_type="a/b\nc"),
    _file("negative size", "must have a size_bytes of at least 0, has -1", size_bytes=-1),
    _file("size as a string", "must have a size_bytes of at least 0, has '1'", size_bytes="1"),
]
CHUNKS = [
    _document(
        "one too many", "chunks", "must be at most 100000 chunks, there are 100001", [Chunk(content="x")] * 100_001
    ),
    _document("number", "chunks", "must be a list of Chunk, is int", 5),
    _document("string", "chunks", "must be a list of Chunk, is str", "text"),
    _document("dict", "chunks", "must be a list of Chunk, is dict", {"content": "text"}),
    _document("generator", "chunks", "must be a list of Chunk, is generator", (chunk(content) for content in "ab")),
    BadDocument(
        "chunk: dict", lambda: _with_chunks(chunk("a"), {"content": "b"}), "chunks[1]", "must be a Chunk, is dict"
    ),
    BadDocument("chunk: None", lambda: _with_chunks(None), "chunks[0]", "must be a Chunk, is NoneType"),
    _chunk("empty", "content", _EMPTY, ""),
    _chunk("blank", "content", _EMPTY, " \n\t"),
    _chunk("None", "content", _EMPTY, None),
    _chunk("bytes, not UTF-8", "content", "must be a string, is bytes", b"\xff\xfe"),
    _chunk("list", "content", "must be a string, is list", ["text"]),
    _chunk("65,536 bytes", "content", "must be at most 65535 bytes of UTF-8, has 65536", "x" * 65_536),
    _chunk("21,846 of 3 bytes", "content", "must be at most 65535 bytes of UTF-8, has 65538", "文" * 21_846),
    _chunk("NUL", "content", _CONTROL, "a\0b"),
    _chunk("escape", "content", _CONTROL, "a\x1bb"),
    _chunk("lone surrogate", "content", _SURROGATE, "a\ud800b"),
    _chunk("unknown", "vector_level", "must be one of text, table, row, col, cell, is 'page'", "page"),
    _chunk("None", "vector_level", "must be one of text, table, row, col, cell, is None", None),
    _chunk("empty", "modal_type", _EMPTY, ""),
    _chunk("None", "modal_type", _EMPTY, None),
    _chunk("17 bytes", "modal_type", "must be at most 16 bytes of UTF-8, has 17", "x" * 17),
    _chunk("6 characters of 3 bytes", "modal_type", "must be at most 16 bytes of UTF-8, has 18", "文" * 6),
    _chunk("65 bytes", "associate_id", "must be at most 64 bytes of UTF-8, has 65", "x" * 65),
    _chunk("newline", "associate_id", _CONTROL, "a\nb"),
    _chunk("number", "associate_id", "must be a string, is int", 5),
    _chunk("33 characters", "strategy", "must be at most 32 characters, has 33", "x" * 33),
    _chunk("out of range", "parent", "must be the position of another chunk (there are 3), is 3", 3),
    _chunk("itself", "parent", "must be the position of another chunk (there are 3), is 1", 1),
    _chunk("negative", "parent", f"{_NATURAL}, is -1", -1),
    _chunk("string", "parent", f"{_NATURAL}, is '0'", "0"),
    _chunk("bool", "parent", f"{_NATURAL}, is False", False),
    _chunk("negative", "start_char", f"{_NATURAL}, is -1", -1),
    _chunk("list", "start_char", f"{_NATURAL}, is [0]", [0]),
    BadDocument(
        "chunk parent: a cycle",
        lambda: _with_chunks(chunk("a", parent=1), chunk("b", parent=2), chunk("c", parent=1)),
        "chunks[1].parent",
        "must not lead back to the chunk itself",
    ),
    BadDocument(
        "chunk: same content at the same place",
        lambda: _with_chunks(chunk("a", start_char=4), chunk("b"), chunk("a", start_char=4)),
        "chunks[2]",
        "is a duplicate of chunks[0]: same content at the same place",
    ),
]
VECTORS = [
    _chunk("too short", "vector", "must have 8 dimensions, has 7", GOOD[:7]),
    _chunk("too long", "vector", "must have 8 dimensions, has 9", [*GOOD, 0.9]),
    _chunk("empty", "vector", "must have 8 dimensions, has 0", []),
    _chunk("nested", "vector", "must have 8 dimensions, has 1x8", [GOOD]),
    _chunk("matrix", "vector", "must have 8 dimensions, has 2x4", np.array(GOOD).reshape(2, 4)),
    _chunk("ragged", "vector", _NOT_NUMBERS, [[0.1, 0.2], [0.3]]),
    _chunk("single number", "vector", "must have 8 dimensions, has a single number", 0.5),
    _chunk("NaN", "vector", "must be finite as float32, has nan at position 3", _vector((3, float("nan")))),
    _chunk("infinity", "vector", "must be finite as float32, has inf at position 0", _vector((0, float("inf")))),
    _chunk("-infinity", "vector", "must be finite as float32, has -inf at position 7", _vector((7, -float("inf")))),
    _chunk("over float32", "vector", "must be finite as float32, has inf at position 2", _vector((2, 1e39))),
    _chunk("over float32 in numpy", "vector", "has -inf at position 2", np.array(_vector((2, -1e300)))),
    _chunk("over float64", "vector", _NOT_NUMBERS, _vector((2, 10**400))),
    _chunk("zeros", "vector", "must not be all zeros: a zero vector has no direction", [0.0] * 8),
    _chunk("zeros as float32", "vector", "must not be all zeros: a zero vector has no direction", [1e-60] * 8),
    _chunk("too large to compare", "vector", "must have a squared length that fits float32", [1e30] * 8),
    _chunk("too small to compare", "vector", "must have a squared length that fits float32", [1e-30] * 8),
    _chunk("words", "vector", _NOT_NUMBERS, ["a"] * 8),
    _chunk("numbers as strings", "vector", _NOT_NUMBERS, ["0.5"] * 8),
    _chunk("one string", "vector", _NOT_NUMBERS, _vector((4, "0.5"))),
    _chunk("one None", "vector", _NOT_NUMBERS, _vector((4, None))),
    _chunk("string", "vector", _NOT_NUMBERS, "12345678"),
    _chunk("bytes", "vector", _NOT_NUMBERS, b"12345678"),
    _chunk("bools", "vector", _NOT_NUMBERS, [True] * 8),
    _chunk("complex", "vector", _NOT_NUMBERS, [1j] * 8),
    _chunk("dates", "vector", _NOT_NUMBERS, np.zeros(8, "datetime64[s]")),
    _chunk("dict", "vector", _NOT_NUMBERS, dict.fromkeys(range(8), 0.5)),
    _chunk("object", "vector", _NOT_NUMBERS, object()),
]
_IDS = "must have whole numbers from 0 to 4294967294 as ids, has"
_WEIGHTS = "must have weights above 0 that fit float32, has"
SPARSE = [
    _chunk("list", "sparse", "must map token ids to weights, is list", [[5, 0.5]]),
    _chunk("string", "sparse", "must map token ids to weights, is str", "5"),
    _chunk("4,097 entries", "sparse", "must have at most 4096 entries, has 4097", dict.fromkeys(range(4_097), 0.5)),
    _chunk("id as a string", "sparse", f"{_IDS} '5'", {5: 0.5, "5": 0.5}),
    _chunk("id as a fraction", "sparse", f"{_IDS} 5.5", {5.5: 0.5}),
    _chunk("id that is a bool", "sparse", f"{_IDS} True", {True: 0.5}),
    _chunk("negative id", "sparse", f"{_IDS} -1", {-1: 0.5}),
    _chunk("id over 32 bits", "sparse", f"{_IDS} 4294967295", {2**32 - 1: 0.5}),
    _chunk("zero", "sparse", f"{_WEIGHTS} 0.0 at id 5", {4: 0.5, 5: 0.0}),
    _chunk("zero as float32", "sparse", f"{_WEIGHTS} 1e-60 at id 5", {5: 1e-60}),
    _chunk("negative weight", "sparse", f"{_WEIGHTS} -0.5 at id 5", {5: -0.5}),
    _chunk("weight NaN", "sparse", f"{_WEIGHTS} nan at id 5", {5: float("nan")}),
    _chunk("weight infinity", "sparse", f"{_WEIGHTS} inf at id 5", {5: float("inf")}),
    _chunk("weight over float32", "sparse", f"{_WEIGHTS} 1e+39 at id 5", {5: 1e39}),
    _chunk("weight over float64", "sparse", _WEIGHTS, {5: 10**400}),
    _chunk("weight as a string", "sparse", f"{_WEIGHTS} '0.5' at id 5", {5: "0.5"}),
    _chunk("weight that is a bool", "sparse", f"{_WEIGHTS} True at id 5", {5: True}),
    _chunk("no weight", "sparse", f"{_WEIGHTS} None at id 5", {5: None}),
    BadDocument(
        "chunk sparse: without its vector",
        lambda: _with_chunks(chunk("a"), Chunk(content="b", sparse={5: 0.5})),
        "chunks[1].sparse",
        "must come with the chunk's vector",
    ),
]
WHOLE = [
    BadDocument("document: dict", lambda: {"doc_id": "bad"}, "document", "must be a Document, is dict"),
    BadDocument("document: None", lambda: None, "document", "must be a Document, is NoneType"),
]
CASES = [*DOC_IDS, *METADATA, *CHUNKS, *VECTORS, *SPARSE, *WHOLE]
