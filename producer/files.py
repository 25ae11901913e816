"""A document's file: a small one is sent inside the event, a large one is staged before the transaction.

A transaction that rolls back leaves only the staged object. The sweep of `operations/staging.py` removes it a day
later, so a file must be written to a document within 12 hours after it was staged.
"""

import hashlib
import io
import mimetypes
import os
import re
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import BinaryIO, Self

from producer.errors import ProducerError
from schema import limits
from schema.object_store import layout
from schema.object_store.port import ObjectStore

_STAGED = timedelta(hours=limits.STAGED_FILE_HOURS)
_SHA256 = re.compile("[0-9a-f]{64}")
_CONTENT_TYPE = re.compile(f"[ -~]{{1,{limits.CONTENT_TYPE_CHARACTERS}}}")
_UNKNOWN_TYPE = "application/octet-stream"
_CONTENT_TYPES = {"md": "text/markdown", "txt": "text/plain", "jsonl": "application/jsonl"}


class FileUnusable(ProducerError):
    """Raised when a file cannot be read, changes during the read, or needs staging without a store. Skip the file."""


@dataclass(frozen=True)
class DocumentFile:
    """A file's bytes and their digest; the bytes are in `content`, or staged in the object store under `staged_key`.

    It may be used for several documents and versions, for up to 12 hours after it was staged.
    """

    extension: str
    content_type: str
    sha256: str
    size_bytes: int
    content: bytes | None = field(default=None, repr=False)
    staged_key: str | None = None
    staged_at: datetime | None = None  # when staging began

    @classmethod
    def from_bytes(cls, content: bytes, name: str, store: ObjectStore | None = None) -> "DocumentFile":
        """Make a file from bytes in memory; `name` gives the extension. More than 64 KiB are staged in `store`."""
        with _DigestingReader(io.BytesIO(content), name, len(content)) as reader:
            return cls._make(reader, name, store)

    @classmethod
    def from_path(
        cls, path: Path | str, store: ObjectStore | None = None, *, always_stage: bool = False
    ) -> "DocumentFile":
        """Read a file once, in bounded memory. More than 64 KiB are staged in `store`, with `always_stage` any file.

        Raises FileUnusable.
        """
        path = Path(path)
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would block, a device would never end
                raise FileUnusable(f"cannot read {path}: not a regular file")
            stream = path.open("rb")
        except OSError as error:
            raise FileUnusable(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:  # a NUL or a lone surrogate in the path
            raise FileUnusable(f"cannot read {str(path)!r}: {error}") from error
        with stream, _DigestingReader(stream, str(path), os.fstat(stream.fileno()).st_size) as reader:
            return cls._make(reader, path.name, store, always_stage=always_stage)

    @classmethod
    def _make(
        cls, stream: "_DigestingReader", name: str, store: ObjectStore | None, *, always_stage: bool = False
    ) -> "DocumentFile":
        extension = _extension(name)
        content_type = _CONTENT_TYPES.get(extension) or mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
        size = stream.size_bytes
        if size <= limits.INLINE_FILE_BYTES and not always_stage:
            content = stream.read()
            return cls(extension, content_type, stream.hexdigest(), size, content=content)
        if store is None:
            limit = limits.INLINE_FILE_BYTES
            raise FileUnusable(f"{name}: {size} bytes; a file over {limit} bytes needs an object store for staging")
        key, began = layout.staging_key(uuid.uuid4().hex), datetime.now(UTC)
        store.put(key, stream, size_bytes=size, content_type=content_type, sha256=None)
        return cls(extension, content_type, stream.hexdigest(), size, staged_key=key, staged_at=began)


def file_error(file: object) -> str | None:
    """What is wrong with a document's file, or None. Its extension and staged key must be safe in object keys."""
    if not isinstance(file, DocumentFile):
        return f"must be a DocumentFile, is {type(file).__name__}"
    if file.extension != _extension(f"file.{file.extension}"):
        return f"must have an extension of 1 to {limits.EXTENSION_CHARACTERS} small letters and digits"
    if not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
        return f"must have a sha256 of 64 lower-case hex digits, has {file.sha256!r}"
    if not isinstance(file.content_type, str) or not _CONTENT_TYPE.fullmatch(file.content_type):
        return f"must have a content_type of 1 to {limits.CONTENT_TYPE_CHARACTERS} printable ASCII characters"
    if not isinstance(file.size_bytes, int) or isinstance(file.size_bytes, bool) or file.size_bytes < 0:
        return f"must have a size_bytes of at least 0, has {file.size_bytes!r}"
    if file.content is None:
        is_complete = _is_staged(file)
    elif isinstance(file.content, bytes):
        is_complete = file.staged_key is None and len(file.content) == file.size_bytes <= limits.INLINE_FILE_BYTES
    else:
        is_complete = False
    if is_complete and file.staged_at is not None and datetime.now(UTC) - file.staged_at > _STAGED:
        hours = limits.STAGED_FILE_HOURS
        return f"was staged more than {hours} hours ago: make it again, the staged object may be removed at any time"
    if is_complete:
        return None
    return "must have its content or be staged: make it with DocumentFile.from_bytes or from_path"


def _is_staged(file: DocumentFile) -> bool:
    return (
        isinstance(file.staged_key, str)
        and layout.is_staging_key(file.staged_key)
        and isinstance(file.staged_at, datetime)
        and file.staged_at.tzinfo is not None
    )


class _DigestingReader:
    """Reads `size_bytes` bytes of a stream and computes their digest; FileUnusable if the file changes during that."""

    def __init__(self, stream: BinaryIO, name: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._stream, self._name, self._remaining = stream, name, size_bytes
        self._modified_at = self._modified()
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)  # hashes a block while the store writes it
        self._hashing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def read(self, size: int = -1, /) -> bytes:
        expected = self._remaining if size < 0 else min(size, self._remaining)
        try:
            data = self._stream.read(expected)
            self._remaining -= len(data)
            changed = len(data) < expected or (
                self._remaining == 0 and (self._stream.read(1) or self._modified() != self._modified_at)
            )
        except OSError as error:
            raise FileUnusable(f"cannot read {self._name}: {error.strerror or error}") from error
        if changed:
            raise FileUnusable(f"{self._name} changed while it was read")
        self._hash(data)
        return data

    def hexdigest(self) -> str:
        """The digest of all bytes that were read."""
        if self._hashing is not None:
            self._hashing.result()
        return self._digest.hexdigest()

    def _modified(self) -> int:
        """The time of the file's last change, in nanoseconds."""
        return 0 if isinstance(self._stream, io.BytesIO) else os.fstat(self._stream.fileno()).st_mtime_ns

    def _hash(self, data: bytes) -> None:
        """Hash large blocks concurrently with the store's write, one at a time: memory holds one block."""
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None
        if len(data) <= limits.INLINE_FILE_BYTES:
            self._digest.update(data)
        else:
            self._hashing = self._pool.submit(self._digest.update, data)


def _extension(name: str) -> str:
    extension = PurePath(name).suffix.removeprefix(".").lower()
    if extension.isascii() and extension.isalnum() and len(extension) <= limits.EXTENSION_CHARACTERS:
        return extension
    return "bin"
