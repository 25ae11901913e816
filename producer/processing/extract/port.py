"""The port through which the bytes of a file become text, tables and images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from producer.processing.errors import ProcessingError
from producer.processing.extract.limits import ExtractLimits


class ExtractError(ProcessingError):
    """Raised when a file is missing, unreadable, damaged, beyond a limit, or of an unknown type. Skip the file.

    `path` is the file; `offset` is the position of the wrong byte in the file, None if no single byte is wrong.
    """

    def __init__(self, path: Path, reason: str, *, offset: int | None = None) -> None:
        super().__init__(f"{printable(str(path))}: {reason}")
        self.path = path
        self.reason = reason
        self.offset = offset


class MissingExtra(ExtractError):
    """Raised when the libraries that read this type of file are not installed. Install the extra that it names."""


class Unreadable(ValueError):
    """Raised by an extractor for a damaged file, or one beyond a limit; the message is the reason without a name."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: rows of cells, all rows of the same length.

    `start` and `end` are the offsets of its Markdown form in the extracted text, in characters; None if the text holds
    the words of the table in another form, as the text of a PDF does where their place is not certain.
    """

    rows: tuple[tuple[str, ...], ...]
    has_header: bool = False  # the first row names the columns
    caption: str | None = None  # on one line
    page: int | None = None  # from 1
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image inside a document."""

    png: bytes = field(repr=False)
    width: int  # pixels
    height: int
    page: int | None = None  # from 1


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the text between two tables; `is_scanned`: it was read from an image."""

    text: str
    is_scanned: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What an extractor found: passages and tables in reading order, and what belongs to no place in the text.

    `tables` are those whose words the passages already have.
    """

    blocks: Sequence[Passage | Table]
    is_markdown: bool  # headings of the passages are Markdown
    tables: Sequence[Table] = ()
    images: Sequence[Image] = ()
    page_count: int | None = None
    title: str | None = None
    language: str | None = None  # BCP 47 tag, if the file names one
    warnings: Sequence[str] = ()  # what was left out, and why


class Extractor(Protocol):
    """Reads one format. It is called in a process of its own, whose memory and time are limited.

    An implementer owes: no network, no other file, and `Unreadable` with a reason for a file that it cannot read.
    """

    def __call__(self, raw: bytes, limits: ExtractLimits) -> Content:
        """The content of a file's bytes. Raises Unreadable."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The text of a file, its tables and images, and the properties that the document's row needs."""

    text: str  # newlines are \n
    source_type: str  # a value of documents.source_type
    title: str  # 1–512 characters on one line
    content_type: str  # media type of the raw bytes
    language: str | None  # BCP 47 tag, if the file names one
    sha256: str  # of the raw bytes, 64 hex digits
    size_bytes: int  # of the raw bytes
    is_markdown: bool = False  # headings in the text are Markdown
    page_count: int | None = None
    tables: tuple[Table, ...] = ()
    images: tuple[Image, ...] = ()
    scanned: tuple[tuple[int, int], ...] = ()  # spans (start, end) of the text that were read from images
    warnings: tuple[str, ...] = ()  # what was left out, and why


def printable(name: str) -> str:
    """A file name of any bytes as text that UTF-8 can encode."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
