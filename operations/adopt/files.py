"""The old platform's files: a bucket of an S3 server, or a folder. Each is read as a stream, never as a whole."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from operations.adopt.errors import BadDocument, MappingError
from operations.adopt.mapping import Files, variable
from operations.wiring import System
from producer import DocumentFile
from producer.files import FileUnusable
from schema import limits
from schema.object_store import s3
from schema.object_store.port import ObjectStore
from schema.retry import Backoff, call_with_retry

T = TypeVar("T")
_MISSING = {"NoSuchKey", "NoSuchObject", "XMinioInvalidObjectName"}
_BLOCK_BYTES = 1024 * 1024
_ATTEMPTS = 3  # of each, urllib3 makes three
_BACKOFF = Backoff(0.5, 5.0)


class OldFiles(Protocol):
    def find(self, key: str) -> None:
        """Raises BadDocument unless the file is there."""

    def fetch(self, key: str, store: ObjectStore, *, known_sha256: str | None) -> DocumentFile | None:
        """The file, staged in `store` if it is large; None if it is large and has this digest. Raises BadDocument."""


@contextmanager
def open_files(system: System, files: Files) -> Iterator[OldFiles]:
    """The files of [files]. Raises MappingError if there is no such bucket."""
    settings = system.settings
    if files.object_store is not None:
        url = files.object_store
    elif settings.object_store is not None:
        url = settings.object_store
    else:
        assert settings.objects is not None
        url = settings.objects.parent.resolve().as_uri()
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path)) / files.bucket
        if not folder.is_dir():
            raise MappingError(f"[files] bucket: there is no folder {folder}")
        yield _Folder(folder)
        return
    client = s3.connect(url, *_keys(system, files))
    if not _call_with_retry(lambda: client.bucket_exists(files.bucket)):
        raise MappingError(f"[files] bucket: there is no bucket {files.bucket!r} at {url}")
    with TemporaryDirectory(prefix="rag-outbox-adopt-") as temporary:
        yield _Bucket(client, files.bucket, Path(temporary))


def _keys(system: System, files: Files) -> tuple[str | None, str | None]:
    if files.access_key_env is not None and files.secret_key_env is not None:
        return (
            variable(files.access_key_env, "files", "access_key_env"),
            variable(files.secret_key_env, "files", "secret_key_env"),
        )
    secret = system.settings.object_store_secret_key
    return system.settings.object_store_access_key, None if secret is None else secret.get_secret_value()


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def find(self, key: str) -> None:
        self._path(key)

    def fetch(self, key: str, store: ObjectStore, *, known_sha256: str | None) -> DocumentFile | None:
        return _make(self._path(key), store, known_sha256)

    def _path(self, key: str) -> Path:
        try:
            path = (self._folder / key).resolve()
            if not path.is_relative_to(self._folder):
                raise BadDocument(f"file: {key!r} leaves the folder")
            if path.is_file():
                return path
        except (OSError, ValueError) as error:  # too long, or a NUL
            raise BadDocument(f"file: {key!r}: {error}") from error
        raise BadDocument(f"file: {key!r} is missing")


class _Bucket:
    def __init__(self, client: Minio, bucket: str, folder: Path) -> None:
        self._client = client
        self._bucket = bucket
        self._folder = folder

    def find(self, key: str) -> None:
        self._ask(key, lambda: self._client.stat_object(self._bucket, key))

    def fetch(self, key: str, store: ObjectStore, *, known_sha256: str | None) -> DocumentFile | None:
        suffix = PurePosixPath(key).suffix
        path = self._folder / f"file{suffix if re.fullmatch('[.][A-Za-z0-9]+', suffix) else ''}"
        try:
            self._ask(key, lambda: self._download(key, path))
            return _make(path, store, known_sha256)
        finally:
            path.unlink(missing_ok=True)

    def _download(self, key: str, path: Path) -> None:
        response = self._client.get_object(self._bucket, key)
        try:
            with path.open("wb") as file:
                for block in response.stream(_BLOCK_BYTES):
                    file.write(block)
        finally:
            response.close()
            response.release_conn()

    @staticmethod
    def _ask(key: str, request: Callable[[], object]) -> None:
        try:
            _call_with_retry(request)
        except S3Error as error:
            if error.code in _MISSING:
                raise BadDocument(f"file: {key!r} is missing") from error
            raise
        except ValueError as error:  # minio refuses the key
            raise BadDocument(f"file: {key!r}: {error}") from error


def _make(path: Path, store: ObjectStore, known_sha256: str | None) -> DocumentFile | None:
    try:
        if known_sha256 is not None and path.stat().st_size > limits.INLINE_FILE_BYTES:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == known_sha256:
                return None
    except OSError as error:
        raise BadDocument(f"file: cannot be read: {error.strerror or error}") from error
    try:
        return DocumentFile.from_path(path, store)
    except FileUnusable as error:
        raise BadDocument(f"file: {error}") from error


def _call_with_retry(request: Callable[[], T]) -> T:
    """Return the result of a request; repeat it after a broken connection. The client repeats refused ones."""
    return call_with_retry(
        request, retry_on=lambda error: isinstance(error, HTTPError), backoff=_BACKOFF, attempts=_ATTEMPTS
    )
