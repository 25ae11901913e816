"""Documents from JSON lines: one document per line, checked strictly, read in bounded memory."""

import base64
import codecs
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from operations.errors import OperationError
from producer import Chunk, Document, DocumentFile
from producer.errors import ProducerError
from schema.object_store.port import ObjectStore

_LINE_BYTES = 256 * 1024 * 1024


class BadLine(OperationError):
    """Raised when a line cannot be written; the message names the line and the reason. Correct the line."""

    def __init__(self, number: int, reason: object) -> None:
        super().__init__(f"line {number}: {reason}")
        self.number = number


@dataclass(frozen=True)
class Line:
    """A document, and the line that it comes from."""

    number: int  # from 1
    size_bytes: int
    document: Document


class _File(msgspec.Struct, forbid_unknown_fields=True):
    path: str | None = None
    base64: str | None = None
    name: str | None = None  # of a base64 file: gives the extension


class _Chunk(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    vector: list[float] | None = None
    sparse: dict[int, float] | None = None
    vector_level: str = "text"
    modal_type: str = "text"
    parent: int | None = None
    associate_id: str | None = None
    start_char: int | None = None
    strategy: str | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    doc_id: str
    title: str
    source_type: str
    chunks: list[_Chunk]
    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None
    source_url: str | None = None
    page_count: int | None = None
    embedding_model: str | None = None
    file: _File | None = None


_decoder = msgspec.json.Decoder(_Document)


def read(stream: IO[bytes], files_below: Path | None, store: ObjectStore) -> Iterator[Line]:
    """Yield the documents of a stream. Raises BadLine.

    Paths of files start at `files_below`, and lead to no place outside of it; without it, they are refused. Blank lines
    and a byte order mark are skipped. Files over 64 KiB are staged in `store` when their line is read.
    """
    for number, raw in _lines(stream):
        try:
            document = _document(_decoder.decode(raw), files_below, store)
            yield Line(number, len(raw), document)
        except UnicodeDecodeError as error:  # its offset is that in one string, not in the line
            raise BadLine(number, _describe_utf8_error(raw)) from error
        except (msgspec.MsgspecError, ProducerError) as error:
            raise BadLine(number, error) from error


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield every line that is not blank, with its number."""
    for number in itertools.count(1):
        try:
            raw = stream.readline(_LINE_BYTES + 1)
        except OSError as error:
            raise BadLine(number, f"cannot be read: {error.strerror or error}") from error
        if not raw:
            return
        if len(raw) > _LINE_BYTES:
            raise BadLine(number, f"longer than {_LINE_BYTES} bytes")
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw and not raw.isspace():
            yield number, raw


def _describe_utf8_error(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
    return "not UTF-8"


def _document(line: _Document, files_below: Path | None, store: ObjectStore) -> Document:
    chunks = [Chunk(**{name: getattr(chunk, name) for name in chunk.__struct_fields__}) for chunk in line.chunks]
    fields = {name: getattr(line, name) for name in line.__struct_fields__ if name not in {"chunks", "file"}}
    return Document(**fields, chunks=chunks, file=_file(line.file, files_below, store))


def _file(file: _File | None, files_below: Path | None, store: ObjectStore) -> DocumentFile | None:
    if file is None:
        return None
    if (file.path is None) == (file.base64 is None):
        raise msgspec.ValidationError("file needs either `path` or `base64` - at `$.file`")
    if file.path is not None:
        return DocumentFile.from_path(_locate(file.path, files_below), store)
    try:
        content = base64.b64decode(file.base64 or "", validate=True)
    except ValueError as error:  # also raised for characters that are not ASCII
        raise msgspec.ValidationError(f"{error} - at `$.file.base64`") from error
    return DocumentFile.from_bytes(content, file.name or "file.bin", store)


def _locate(path: str, files_below: Path | None) -> Path:
    """Where a path of a line leads to, all links resolved: the author of the line must not read other files."""
    if files_below is None:
        raise msgspec.ValidationError("a path is refused without --files-below DIR - at `$.file.path`")
    root = files_below.resolve()
    try:
        place = (root / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a NUL
        raise msgspec.ValidationError(f"cannot read {path!r}: {error} - at `$.file.path`") from error
    if not place.is_relative_to(root):
        raise msgspec.ValidationError(f"{path!r} leads outside of {files_below} - at `$.file.path`")
    return place
