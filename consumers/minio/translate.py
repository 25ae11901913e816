"""Raise an object store's errors as Retryable, Permanent or StoreMissing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def translate_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from consumers.minio.errors import translate  # imports minio, which is slow and which a directory does not need

        failure = translate(error)
        if failure is None:
            raise
        raise failure from error
