"""Reads a file into clean text, tables and images, with the title, types, hash and size that its document needs.

The text passes the writer's checks: valid Unicode, no control characters but newline and tab, never blank. The hash is
that of the bytes from which the text was made.
"""

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Self

from producer.processing.chunk import headings
from producer.processing.extract.cleaning import clean
from producer.processing.extract.detect import detect
from producer.processing.extract.encodings import Undecodable
from producer.processing.extract.formats import BY_SUFFIX, Format
from producer.processing.extract.limits import DEFAULT_LIMITS, ExtractLimits
from producer.processing.extract.port import Extracted, ExtractError, MissingExtra, Unreadable, printable
from producer.processing.extract.process import ReaderProcess
from producer.processing.extract.reading import read_format

_READ_BYTES = 1024 * 1024


def is_supported(path: Path) -> bool:
    """Whether files with the suffix of this name are read, if the extra of their format is installed."""
    return path.suffix.lower() in BY_SUFFIX


def title_of(path: PurePath) -> str:
    """A title from the name of a file, for one that has none in it."""
    return headings.shorten(clean(printable(path.stem))) or "untitled"


def extract(path: Path, *, limits: ExtractLimits = DEFAULT_LIMITS) -> Extracted:
    """Read one file; raises ExtractError with the file's name and a reason."""
    with FileExtractor(limits) as extractor:
        return extractor.extract(path)


class FileExtractor:
    """Reads files one after another. Text is read in this process, every other format in a child process.

    Not thread-safe.
    """

    def __init__(self, limits: ExtractLimits = DEFAULT_LIMITS) -> None:
        self.process = ReaderProcess(limits)
        self._limits = limits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process, if there is one."""
        self.process.close()

    def extract(self, path: Path) -> Extracted:
        """Read one file; raises ExtractError with the file's name and a reason."""
        raw, sha256 = _read_bytes(path, self._limits.file_bytes)
        try:
            file_format = detect(raw, path.suffix.lower())
            _require_extra(path, file_format)
            found = self._read(raw, file_format, sha256)
        except Undecodable as error:
            raise ExtractError(path, str(error), offset=error.offset) from error
        except Unreadable as error:
            raise ExtractError(path, str(error)) from error
        if found.title:
            return found
        return replace(found, title=title_of(path))

    def _read(self, raw: bytes, file_format: Format, sha256: str) -> Extracted:
        if file_format.reader is None:
            return read_format(raw, file_format, self._limits, sha256)
        return self.process.read(raw, file_format, sha256)


def _require_extra(path: Path, file_format: Format) -> None:
    extra = file_format.missing_extra()
    if extra is not None:
        raise MissingExtra(
            path, f"{file_format.name} is read with the extra {extra}: pip install 'rag-outbox[{extra}]'"
        )


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
