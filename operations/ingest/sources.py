"""The identity of a file: a source and the path in it. Links are not resolved, so a link may move to other files.

A source is named by `--source`, with a path relative to the given folder; without a name, the absolute path counts.
A web page is identified by its URL.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

from operations.errors import OperationError, UsageError
from operations.ingest.urls import PageUrl
from producer.processing.extract.port import printable
from schema.limits import SOURCE_URL_CHARACTERS

_NAME = re.compile(r"[\w.-]{1,64}")
_QUOTED = re.compile(r"[^\w/.~-]")  # as in a URL, but letters of every script stay: a path is a third as long
_DIGEST_CHARACTERS = 65  # "~" and a SHA-256 at the end of a shortened URL


@dataclass(frozen=True, slots=True)
class SourceFile:
    path: Path  # absolute, links not resolved
    doc_id: str
    source_url: str  # at most 1,024 characters
    url: str | None = None  # of a fetched page, without credentials; `path` is then a temporary file

    @property
    def shown(self) -> str:
        """The name for messages."""
        return self.url or printable(str(self.path))


@dataclass(frozen=True, slots=True)
class Source:
    """`name` is None for the source of all absolute paths."""

    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UsageError(f"--source {self.name!r}: give 1 to 64 letters, digits, dots, hyphens and underscores")

    def file(self, path: Path, relative: str) -> SourceFile:
        """The identity of the file at `path`, which must be absolute; `relative` is its path below the given folder."""
        if self.name is None:
            return SourceFile(path, doc_id(path), _shorten(f"file://{_quote(str(path))}"))
        key = f"{self.name}\0{relative}"
        return SourceFile(path, _doc_id(path.stem, key), _shorten(f"{self._root()}{_quote(relative)}"))

    def prefix(self, folder: Path) -> str:
        """How the `source_url` of each document of this folder begins; it ends in a slash.

        `folder` must be absolute. Raises OperationError if a shortened URL would not show the folder.
        """
        root = self._root() if self.name is not None else f"file://{_quote(str(folder)).rstrip('/')}/"
        if len(root) > SOURCE_URL_CHARACTERS - _DIGEST_CHARACTERS:
            raise OperationError(f"the path {folder} is too long to find its documents by it: give --source NAME")
        return root

    def _root(self) -> str:
        return f"rag-source://{self.name}/"


def absolute(path: Path) -> Path:
    """The absolute path without `.` and `..`; links are not resolved."""
    return Path(os.path.abspath(path))


def doc_id(path: Path) -> str:
    """The document id of an absolute path: its readable stem and 12 hex digits of the path's SHA-256."""
    return _doc_id(path.stem, str(path))


def page_file(path: Path, url: PageUrl) -> SourceFile:
    """The identity of a fetched page, whose content is at `path`."""
    return SourceFile(path, _doc_id(PurePath(url.name).stem, url.shown), _shorten(url.shown), url.shown)


def _doc_id(stem: str, key: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40] or "file"
    return f"{readable}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:12]}"


def _quote(path: str) -> str:
    return _QUOTED.sub(lambda found: quote(found[0].encode(errors="surrogateescape")), path)


def _shorten(url: str) -> str:
    if len(url) <= SOURCE_URL_CHARACTERS:
        return url
    return f"{url[: SOURCE_URL_CHARACTERS - _DIGEST_CHARACTERS]}~{hashlib.sha256(url.encode()).hexdigest()}"
