"""Object-store errors as Retryable (the same request may succeed later), Permanent (never) or StoreMissing."""

import urllib3.exceptions
from minio.error import MinioException, S3Error

from schema.failures import Permanent, Retryable, StoreMissing
from schema.object_store.port import BucketMissing

_IMPOSSIBLE = (ValueError, FileExistsError, IsADirectoryError, NotADirectoryError)  # a key that the store cannot have
_REFUSED = {"EntityTooLarge", "InvalidArgument", "InvalidObjectName", "KeyTooLongError", "XMinioInvalidObjectName"}


def translate(error: Exception) -> Permanent | Retryable | StoreMissing | None:
    """Returns None for an error that no store raises."""
    if isinstance(error, S3Error) and error.code == "NoSuchBucket":
        error = BucketMissing(error.bucket_name)
    if isinstance(error, BucketMissing):
        return StoreMissing(str(error))
    if isinstance(error, S3Error):
        words = f"object store: {error.code}: {error.message}"
        return Permanent(words) if error.code in _REFUSED else Retryable(words)
    if isinstance(error, _IMPOSSIBLE):
        return Permanent(f"object store: {error}")
    if isinstance(error, (OSError, MinioException, urllib3.exceptions.HTTPError)):
        return Retryable(f"object store: {error}")
    return None
