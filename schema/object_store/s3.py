"""An S3-compatible server as object store, over minio-py: MinIO, RustFS, SeaweedFS, Garage, Ceph."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from minio import Minio
from minio.commonconfig import ENABLED, ComposeSource, CopySource, Filter
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from schema.bucket import STAGING_PREFIX
from schema.object_store import ObjectMissing, Readable

_MISSING = {"NoSuchKey", "NoSuchObject"}
_STAGING_DAYS = 7
_PART_BYTES = 16 * 1024 * 1024  # of a multipart upload: what one large file holds in memory
_COPY_LIMIT_BYTES = 5 * 1024**3  # S3: the largest object that one copy request takes


class S3Store:
    """A bucket; raises minio's S3Error, or urllib3's errors when the server cannot be reached."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def ensure(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
        rule = Rule(
            ENABLED,
            rule_filter=Filter(prefix=STAGING_PREFIX),
            rule_id="remove-abandoned-staging",
            expiration=Expiration(days=_STAGING_DAYS),
        )
        try:
            self._client.set_bucket_lifecycle(self._bucket, LifecycleConfig([rule]))
        except S3Error as error:
            if error.code != "NotImplemented":  # a server without lifecycle rules: an operator empties temp/
                raise

    def put(self, key: str, stream: Readable, *, size_bytes: int, content_type: str, sha256: str | None) -> None:
        self._client.put_object(
            self._bucket,
            key,
            cast(BinaryIO, stream),
            size_bytes,
            content_type=content_type,
            metadata={"sha256": sha256} if sha256 else None,
            part_size=_PART_BYTES,
        )

    def read(self, key: str) -> bytes:
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            raise self._translated(error, key) from error
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def copy(self, source: str, target: str) -> None:
        try:
            size = self._client.stat_object(self._bucket, source).size or 0
            if size < _COPY_LIMIT_BYTES:
                self._client.copy_object(self._bucket, target, CopySource(self._bucket, source))
            else:
                self._client.compose_object(self._bucket, target, [ComposeSource(self._bucket, source)])
        except S3Error as error:
            raise self._translated(error, source) from error

    def sha256(self, key: str) -> str | None:
        try:
            metadata = self._client.stat_object(self._bucket, key).metadata or {}
        except S3Error as error:
            if error.code in _MISSING:
                return None
            raise
        return metadata.get("x-amz-meta-sha256")

    def keys(self, prefix: str) -> Iterator[str]:
        for item in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
            if item.object_name is not None:
                yield item.object_name

    def remove(self, keys: Iterable[str]) -> None:
        for error in self._client.remove_objects(self._bucket, (DeleteObject(key) for key in keys)):
            raise OSError(f"cannot remove object {error.name!r}: {error.code} {error.message}")

    def location(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @staticmethod
    def _translated(error: S3Error, key: str) -> Exception:
        return ObjectMissing(key) if error.code in _MISSING else error
