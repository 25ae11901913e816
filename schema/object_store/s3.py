"""An S3-compatible server as object store, over minio-py: MinIO, RustFS, SeaweedFS, Garage, Ceph."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.commonconfig import REPLACE, ComposeSource, CopySource
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from schema.object_store.connections import pool_manager
from schema.object_store.port import ObjectMissing, Readable

_MISSING = {"NoSuchKey", "NoSuchObject"}
_PARTS = 10_000  # S3: most parts of a multipart upload
_PART_BYTES = 16 * 1024 * 1024  # per part: the memory that one large file takes
_UNKNOWN_PART_BYTES = 32 * 1024 * 1024  # of an object of unknown size, which so has at most 320 GB
_COPY_BYTES = 256 * 1024 * 1024  # per request: a server answers only when all of them are copied
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
# A silent server is asked once: the caller has its own retries. One that refuses, or is busy, has said so quickly.
_RETRIES = urllib3.Retry(connect=1, read=0, status=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
_CONNECTIONS = 32


def connect(
    url: str, access_key: str | None = None, secret_key: str | None = None, *, timeout_seconds: float = _READ_SECONDS
) -> Minio:
    """A client whose requests end when the server is silent for `timeout_seconds`; 5 seconds, or less, to connect.

    The limit holds for each block of an upload and of an answer, not for the whole of a large object. minio's default
    waits five minutes, six times.
    """
    parts = urlsplit(url)
    pool = pool_manager(
        maxsize=_CONNECTIONS,
        timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout_seconds), read=timeout_seconds),
        retries=_RETRIES,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),  # as minio does
    )
    secure = parts.scheme == "https"
    return Minio(parts.netloc, access_key=access_key, secret_key=secret_key, secure=secure, http_client=pool)


class S3Store:
    """A bucket. Raises ValueError on a key that is no plain path, minio's S3Error, and urllib3's errors when the server
    cannot be reached."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def exists(self) -> bool:
        return self._client.bucket_exists(self._bucket)

    def ensure(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        self._client.put_object(
            self._bucket,
            _require_plain(key),
            cast(BinaryIO, stream),
            -1 if size_bytes is None else size_bytes,
            content_type=content_type,
            metadata={"sha256": sha256} if sha256 else None,
            part_size=_UNKNOWN_PART_BYTES if size_bytes is None else max(_PART_BYTES, -(-size_bytes // _PARTS)),
            num_parallel_uploads=1,  # each holds a part in memory, and their threads outlive a broken stream
        )

    def read(self, key: str) -> bytes:
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            raise self._translate(error, key) from error
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    @contextmanager
    def open(self, key: str) -> Iterator[Readable]:
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            raise self._translate(error, key) from error
        try:
            yield cast(Readable, response)
        finally:
            response.close()
            response.release_conn()

    def copy(self, source: str, target: str, *, content_type: str, sha256: str) -> None:
        metadata: dict[str, str | list[str] | tuple[str]] = {"Content-Type": content_type, "sha256": sha256}
        try:
            stat = self._client.stat_object(self._bucket, source)
            if source == target:  # S3 refuses it
                return
            size_bytes = stat.size or 0
            if size_bytes <= _COPY_BYTES:
                whole = CopySource(self._bucket, source)
                self._client.copy_object(
                    self._bucket, _require_plain(target), whole, metadata=metadata, metadata_directive=REPLACE
                )
            else:
                parts = [
                    ComposeSource(self._bucket, source, offset=start, length=min(_COPY_BYTES, size_bytes - start))
                    for start in range(0, size_bytes, _COPY_BYTES)
                ]
                self._client.compose_object(self._bucket, _require_plain(target), parts, metadata=metadata)
        except S3Error as error:
            raise self._translate(error, source) from error

    def sha256(self, key: str) -> str | None:
        try:
            metadata = self._client.stat_object(self._bucket, key).metadata or {}
        except S3Error as error:
            if error.code in _MISSING:
                return None
            raise
        return metadata.get("x-amz-meta-sha256")

    def keys(self, prefix: str, *, after: str = "") -> Iterator[str]:
        return (key for key, _, _ in self._list(prefix, after))

    def written_at(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, datetime]]:
        return ((key, at) for key, at, _ in self._list(prefix, after))

    def sizes(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int]]:
        return ((key, size_bytes) for key, _, size_bytes in self._list(prefix, after))

    def _list(self, prefix: str, after: str) -> Iterator[tuple[str, datetime, int]]:
        start = after or None
        for item in self._client.list_objects(self._bucket, prefix=prefix, recursive=True, start_after=start):
            if item.object_name is not None and item.last_modified is not None:
                yield item.object_name, item.last_modified, item.size or 0

    def remove(self, keys: Iterable[str]) -> None:
        for error in self._client.remove_objects(self._bucket, (DeleteObject(key) for key in keys)):
            raise OSError(f"cannot remove object {error.name!r}: {error.code} {error.message}")

    def location(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @staticmethod
    def _translate(error: S3Error, key: str) -> Exception:
        return ObjectMissing(key) if error.code in _MISSING else error


def _require_plain(key: str) -> str:
    """Refuse a key that is no plain path: some servers would store it under another name."""
    if not key or "" in (segments := key.split("/")) or "." in segments or ".." in segments:
        raise ValueError(f"object key {key!r} is no relative path")
    return key
