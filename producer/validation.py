"""Invariant 13: a document that breaks a limit is refused before anything is written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from producer.documents import Chunk, Document, Vector
from producer.errors import InvalidDocument, Problem
from producer.files import file_error
from schema import limits
from schema.database.tables import SOURCE_TYPES, VECTOR_LEVELS
from schema.events.identity import doc_id_error

_ASCII_CONTROLS = bytes({*range(32), 127} - {9, 10, 13})
_C1_CONTROLS = re.compile("[\x80-\x9f]")
_INT32_MAX = 2**31 - 1
_STRINGS: Mapping[str, Mapping[str, Any]] = {
    "title": {"characters": limits.TITLE_CHARACTERS, "filled": True},
    "source_url": {"characters": limits.SOURCE_URL_CHARACTERS},
    "business_tag": {"size_bytes": limits.BUSINESS_TAG_BYTES},
    "domain": {"characters": limits.DOMAIN_CHARACTERS},
    "language": {"characters": limits.LANGUAGE_CHARACTERS},
}
_FLOAT32_MIN, _FLOAT32_MAX = float(np.finfo("float32").tiny), float(np.finfo("float32").max)


def validate(document: Document, model: str, dimension: int) -> list[bytes | None]:
    """Check every field, and return the chunks' vectors as little-endian float32, None for a chunk without one.

    `model` and `dimension` are the system's. Raises InvalidDocument with every problem of the document.
    """
    if not isinstance(document, Document):
        raise InvalidDocument(None, [Problem("document", f"must be a Document, is {type(document).__name__}")])
    problems = [*_metadata(document, model)]
    chunks = document.chunks if document.chunks is not None and _is_list(document.chunks) else ()
    vectors: list[bytes | None] = []
    first_at: dict[tuple[object, ...], int] = {}
    parents: dict[int, int] = {}  # of the valid chunks that have one
    valid: Chunk | None = None  # the last valid one
    for position, chunk in enumerate(chunks):
        name = f"chunks[{position}]"
        if not isinstance(chunk, Chunk):
            problems.append(Problem(name, f"must be a Chunk, is {type(chunk).__name__}"))
            continue
        wrong_fields = [] if _is_surely_valid(chunk, valid) else [*_chunk(name, chunk, position, len(chunks))]
        if not wrong_fields:
            valid = chunk
            if chunk.parent is not None:
                parents[position] = chunk.parent
        problems += wrong_fields
        if not wrong_fields and chunk.start_char is not None:
            identity = (chunk.content, chunk.start_char, chunk.vector_level, chunk.associate_id)
            if (first := first_at.setdefault(identity, position)) != position:
                problems.append(Problem(name, f"is a duplicate of chunks[{first}]: same content at the same place"))
        vector, wrong = (None, None) if chunk.vector is None else vector_bytes(chunk.vector, dimension)
        vectors.append(vector)
        if wrong is not None:
            problems.append(Problem(f"{name}.vector", wrong))
        if chunk.sparse is not None and (wrong := sparse_error(chunk.sparse, has_vector=chunk.vector is not None)):
            problems.append(Problem(f"{name}.sparse", wrong))
    problems += [*_cycles(parents)]
    if problems:
        raise InvalidDocument(document.doc_id, problems)
    return vectors


def validate_metadata(doc_id: str, values: Mapping[str, object]) -> None:
    """Check fields of a document by name: title, source_url, business_tag, domain, language. Raises InvalidDocument."""
    if problems := [problem for name, value in values.items() for problem in _string(name, value, **_STRINGS[name])]:
        raise InvalidDocument(doc_id, problems)


def _metadata(document: Document, model: str) -> Iterator[Problem]:
    if wrong := doc_id_error(document.doc_id):
        yield Problem("doc_id", wrong)
    yield from _string("title", document.title, **_STRINGS["title"])
    yield from _choice("source_type", document.source_type, SOURCE_TYPES)
    for name in ("source_url", "business_tag", "domain", "language"):
        yield from _string(name, getattr(document, name), **_STRINGS[name])
    yield from _natural("page_count", document.page_count)
    for name, file in (("file", document.file), ("text", document.text)):
        if file is not None and (wrong := file_error(file)):
            yield Problem(name, wrong)
    yield from _files("tables", document.tables, "json")
    yield from _files("images", document.images, "png")
    named = document.embedding_model
    if named is not None and not (isinstance(named, str) and named == model):
        yield Problem("embedding_model", f"must be the system's model {model!r}, is {named!r}")
    if document.chunks is None:
        return
    if not _is_list(document.chunks):
        yield Problem("chunks", f"must be a list of Chunk, is {type(document.chunks).__name__}")
    elif (count := len(document.chunks)) > limits.CHUNKS_PER_DOCUMENT:
        yield Problem("chunks", f"must be at most {limits.CHUNKS_PER_DOCUMENT} chunks, there are {count}")


def _files(name: str, files: object, extension: str) -> Iterator[Problem]:
    if files is None:
        return
    if not isinstance(files, Sequence) or isinstance(files, str | bytes):
        yield Problem(name, f"must be a list of DocumentFile, is {type(files).__name__}")
        return
    if len(files) > limits.EXTRACTED_FILES:
        yield Problem(name, f"must be at most {limits.EXTRACTED_FILES} files, there are {len(files)}")
    for position, file in enumerate(files):
        wrong = file_error(file)
        if wrong is None and file.extension != extension:
            wrong = f"must have the extension {extension}, has {file.extension}"
        if wrong is not None:
            yield Problem(f"{name}[{position}]", wrong)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_surely_valid(chunk: Chunk, valid: Chunk | None) -> bool:
    """A fast check that accepts most valid chunks: the labels are the same objects as those of a valid chunk."""
    return (
        valid is not None
        and chunk.vector_level is valid.vector_level
        and chunk.modal_type is valid.modal_type
        and chunk.associate_id is valid.associate_id
        and chunk.strategy is valid.strategy
        and chunk.parent is None
        and (chunk.start_char is None or _is_natural(chunk.start_char))
        and _is_text(chunk.content)
    )


def _is_text(content: object) -> bool:
    if not isinstance(content, str) or not content.strip():
        return False
    try:
        encoded = content.encode()
    except UnicodeEncodeError:
        return False
    return len(encoded) <= limits.CONTENT_BYTES and not _has_controls(content, encoded)


def _chunk(name: str, chunk: Chunk, position: int, count: int) -> Iterator[Problem]:
    yield from _string(f"{name}.content", chunk.content, size_bytes=limits.CONTENT_BYTES, lines=True, filled=True)
    yield from _choice(f"{name}.vector_level", chunk.vector_level, VECTOR_LEVELS)
    yield from _string(f"{name}.modal_type", chunk.modal_type, size_bytes=limits.MODAL_TYPE_BYTES, filled=True)
    yield from _string(f"{name}.associate_id", chunk.associate_id, size_bytes=limits.ASSOCIATE_ID_BYTES)
    yield from _string(f"{name}.strategy", chunk.strategy, characters=limits.CHUNK_STRATEGY_CHARACTERS)
    yield from _natural(f"{name}.start_char", chunk.start_char)
    yield from _natural(f"{name}.parent", chunk.parent)
    if isinstance(chunk.parent, int) and (chunk.parent >= count or chunk.parent == position):
        yield Problem(f"{name}.parent", f"must be the position of another chunk (there are {count}), is {chunk.parent}")


def _cycles(parents: Mapping[int, int]) -> Iterator[Problem]:
    """A problem per chunk that is its own ancestor, at the first position of each cycle."""
    seen: dict[int, int] = {}  # to the start of the walk that came by
    for start in parents:
        position = start
        while position in parents and position not in seen:
            seen[position] = start
            position = parents[position]
        if position in parents and seen[position] == start:
            yield Problem(f"chunks[{position}].parent", "must not lead back to the chunk itself")


def _choice(name: str, value: object, allowed: Sequence[str]) -> Iterator[Problem]:
    if not isinstance(value, str) or value not in allowed:
        yield Problem(name, f"must be one of {', '.join(allowed)}, is {value!r}")


def _string(
    name: str,
    value: object,
    *,
    characters: int | None = None,
    size_bytes: int | None = None,
    lines: bool = False,
    filled: bool = False,
) -> Iterator[Problem]:
    """Check length and valid Unicode; control characters are refused (`lines` allows line breaks and tabs)."""
    if filled and (value is None or (isinstance(value, str) and not value.strip())):
        yield Problem(name, "must not be empty")
    if value is None:
        return
    if not isinstance(value, str):
        yield Problem(name, f"must be a string, is {type(value).__name__}")
        return
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        yield Problem(name, f"must be valid Unicode, has a lone surrogate at character {error.start}")
        return
    if characters is not None and len(value) > characters:
        yield Problem(name, f"must be at most {characters} characters, has {len(value)}")
    if size_bytes is not None and len(encoded) > size_bytes:
        yield Problem(name, f"must be at most {size_bytes} bytes of UTF-8, has {len(encoded)}")
    if _has_controls(value, encoded) or (not lines and any(c in value for c in "\t\n\r")):
        yield Problem(name, "must not contain control characters")


def _has_controls(value: str, encoded: bytes) -> bool:
    """Whether there are control characters other than line breaks and tabs; far faster than str.translate."""
    if len(encoded.translate(None, _ASCII_CONTROLS)) != len(encoded):
        return True
    return len(encoded) != len(value) and _C1_CONTROLS.search(value) is not None


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT32_MAX


def _natural(name: str, value: object) -> Iterator[Problem]:
    if value is not None and not _is_natural(value):
        yield Problem(name, f"must be a whole number from 0 to {_INT32_MAX}, is {value!r}")


def vector_bytes(vector: Vector, dimension: int) -> tuple[bytes | None, str | None]:
    """The vector's bytes, or what is wrong with it."""
    try:
        given = np.asarray(vector)
    except (TypeError, ValueError):
        return None, "must be a list of numbers"
    if given.dtype.kind not in "fiu":  # numpy would accept the string "1.5" as a number
        return None, "must be a list of numbers"
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = given.astype("<f4", copy=False)
        square = float(values @ values) if values.shape == (dimension,) else 0.0
    if 0 < square < np.inf:  # cosine similarity divides by the length, in float32
        return values.tobytes(), None
    if values.shape != (dimension,):
        shape = "x".join(map(str, values.shape)) or "a single number"
        return None, f"must have {dimension} dimensions, has {shape}"
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        return None, f"must be finite as float32, has {values[position]} at position {position}"
    if not values.any():
        return None, "must not be all zeros: a zero vector has no direction"
    return None, "must have a squared length that fits float32: cosine similarity divides by the length"


def sparse_error(weights: object, *, has_vector: bool) -> str | None:
    """What is wrong with a chunk's sparse weights, or None."""
    if not isinstance(weights, Mapping):
        return f"must map token ids to weights, is {type(weights).__name__}"
    if weights and not has_vector:
        return "must come with the chunk's vector"
    if len(weights) > limits.SPARSE_ENTRIES:
        return f"must have at most {limits.SPARSE_ENTRIES} entries, has {len(weights)}"
    for token, weight in weights.items():
        if not isinstance(token, Integral) or isinstance(token, bool) or not 0 <= int(token) <= limits.SPARSE_ID:
            return f"must have whole numbers from 0 to {limits.SPARSE_ID} as ids, has {token!r}"
        if not isinstance(weight, Real) or isinstance(weight, bool) or not _fits_float32(weight):
            return f"must have weights above 0 that fit float32, has {weight!r} at id {token}"
    return None


def _fits_float32(weight: Real) -> bool:
    try:
        return bool(_FLOAT32_MIN <= float(weight) <= _FLOAT32_MAX)
    except OverflowError:  # a large Python int
        return False
