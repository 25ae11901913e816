"""Reads a file into clean text, with the title, types, hash and size that the document's row needs.

The text passes the writer's checks: valid Unicode, no control characters but newline and tab, never blank. The hash is
that of the bytes from which the text was made.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from producer.processing.chunk import headings
from producer.processing.encodings import Undecodable, decode
from producer.processing.errors import ProcessingError

MAX_FILE_BYTES = 64 * 1024 * 1024  # memory peaks at twice that, at eight times if the text has an emoji
_READ_BYTES = 1024 * 1024

_RARE_LINE_BREAK = re.compile(
    "[\v\f\x1c-\x1f\x85\u2028\u2029]"
)  # the line breaks of str.splitlines, and unit separators
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")


class ExtractError(ProcessingError):
    """Raised when a file is missing, unreadable, too large, blank, or of an unknown type or encoding. Skip the file.

    `path` is the file; `offset` is the position of the wrong byte in the file, None if no single byte is wrong.
    """

    def __init__(self, path: Path, reason: str, *, offset: int | None = None) -> None:
        super().__init__(f"{_printable(str(path))}: {reason}")
        self.path = path
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file, and its properties."""

    text: str  # newlines are \n
    source_type: str  # a value of documents.source_type
    title: str  # 1–512 characters on one line
    content_type: str  # media type of the raw bytes
    language: str | None  # BCP 47 tag, if the format names one
    sha256: str  # of the raw bytes, 64 hex digits
    size_bytes: int  # of the raw bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """How one kind of file becomes text.

    `read` turns the raw bytes into text, or raises ValueError with a reason. `title` returns the title that the text
    itself has, or None.
    """

    source_type: str
    content_type: str
    read: Callable[[bytes], str]
    title: Callable[[str], str | None]


def is_supported(path: Path) -> bool:
    """Whether `extract` has a reader for the suffix of this file name."""
    return path.suffix.lower() in READERS


def extract(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> Extracted:
    """Read a file of at most `max_bytes` into text; raises ExtractError with the file's name and a reason."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ExtractError(path, f"unsupported file type {path.suffix!r}; supported: {' '.join(sorted(READERS))}")
    raw, sha256 = _read_bytes(path, max_bytes)
    try:
        text = _clean(reader.read(raw))
    except Undecodable as error:
        raise ExtractError(path, str(error), offset=error.offset) from error
    except ValueError as error:
        raise ExtractError(path, str(error)) from error
    if not text or text.isspace():
        raise ExtractError(path, "no text in it: the file is empty or blank")
    title = reader.title(text) or headings.shorten(_clean(_printable(path.stem))) or "untitled"
    return Extracted(text, reader.source_type, title, reader.content_type, None, sha256, len(raw))


def _read_bytes(path: Path, max_bytes: int) -> tuple[bytes, str]:
    """The file's bytes and their SHA-256; reads at most `max_bytes` and one block, even if the file grows."""
    raw, digest = bytearray(), hashlib.sha256()
    try:
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ExtractError(path, "not a regular file")
            if status.st_size > max_bytes:
                raise ExtractError(path, f"too large: {status.st_size:,} bytes, the limit is {max_bytes:,}")
            while block := file.read(_READ_BYTES):
                digest.update(block)
                raw += block
                if len(raw) > max_bytes:
                    raise ExtractError(
                        path, f"too large: it grew past the limit of {max_bytes:,} bytes while being read"
                    )
    except FileNotFoundError as error:
        raise ExtractError(path, "no such file") from error
    except OSError as error:
        raise ExtractError(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the file's name
        raise ExtractError(path, f"cannot be read: {error}") from error
    return bytes(raw), digest.hexdigest()


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without waiting for the writer of a named pipe, so that the pipe can be refused."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _clean(text: str) -> str:
    """Replace every kind of line break by a newline, and remove all control characters but tab."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", _RARE_LINE_BREAK.sub("\n", text))


def _first_heading(text: str) -> str | None:
    return next((heading.title for heading in headings.find(text) if heading.title), None)


def _no_title(_text: str) -> str | None:
    return None


def _printable(name: str) -> str:
    """A file name of any bytes as text that UTF-8 can encode."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


_PLAIN = Reader("text", "text/plain", decode, _no_title)
_MARKDOWN = Reader("text", "text/markdown", decode, _first_heading)
_RST = Reader("text", "text/x-rst", decode, _no_title)

READERS: Mapping[str, Reader] = MappingProxyType(  # by suffix, in lower case
    {".txt": _PLAIN, ".text": _PLAIN, ".log": _PLAIN, ".md": _MARKDOWN, ".markdown": _MARKDOWN, ".rst": _RST}
)
