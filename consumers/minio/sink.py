"""The object-store sink: files at their final keys, and an archive of vectors from which Milvus can be rebuilt."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from consumers.sink import Change
from schema import archive
from schema.events.events import DocumentDeleted, DocumentUpserted, Event, FileRecord
from schema.failures import Permanent
from schema.object_store.port import ObjectMissing, ObjectStore
from schema.sinks import MINIO

_PARALLEL_DOCUMENTS = 8  # hides the latency of the store's requests


class MinioSink:
    """Any S3-compatible server, or a directory, behind the object store port."""

    name = MINIO

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(_PARALLEL_DOCUMENTS, thread_name_prefix="minio-sink")

    def ensure(self) -> None:
        self._store.ensure()

    def apply(self, changes: Sequence[Change]) -> None:
        outcomes = [self._pool.submit(self._apply_one, change) for change in changes]
        wait(outcomes)  # a failed batch is applied again: none of its requests may still run then
        for outcome in outcomes:
            with _translate_errors():
                outcome.result()

    def clean_up(self, events: Sequence[Event]) -> None:
        """Staged files go only after marking: until then an older version may come again and overwrite the copy."""
        files = [file for event in events if isinstance(event, DocumentUpserted) for file in event.files]
        if staged := [file.staged_key for file in files if file.staged_key is not None]:
            with _translate_errors():
                self._store.remove(staged)

    def close(self) -> None:
        self._pool.shutdown()

    def _apply_one(self, change: Change) -> None:
        for event in change.events:
            if isinstance(event, DocumentUpserted):
                self._write(event)
        for event in change.events:
            self._remove(event)

    def _write(self, event: DocumentUpserted) -> None:
        for file in event.files:
            if file.content is not None:
                self._put(file.object_key, file.content, file.content_type, file.sha256)
            else:
                self._unstage(file)
        if event.chunks:
            archive.write(self._store, event.doc_id, event.version, event.part, event.chunks)

    def _remove(self, event: DocumentUpserted | DocumentDeleted) -> None:
        self._store.remove(event.removed_files)
        if isinstance(event, DocumentDeleted):
            archive.remove(self._store, event.doc_id)

    def _put(self, key: str, content: bytes, content_type: str, sha256: str) -> None:
        self._store.put(key, io.BytesIO(content), size_bytes=len(content), content_type=content_type, sha256=sha256)

    def _unstage(self, file: FileRecord) -> None:
        """Copy a staged file to its key. It may be gone if the key holds its bytes: this version was cleaned up."""
        if file.staged_key is None:
            raise Permanent(f"file {file.object_key!r} has neither content nor a staged object")
        try:
            self._store.copy(file.staged_key, file.object_key, content_type=file.content_type, sha256=file.sha256)
        except ObjectMissing as error:
            if self._store.sha256(file.object_key) != file.sha256:
                raise Permanent(f"the staged object {file.staged_key!r} of file {file.object_key!r} is gone") from error


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the store's errors as Retryable or Permanent."""
    try:
        yield
    except Exception as error:
        from consumers.minio.errors import translate  # imports minio, which is slow and which a directory does not need

        failure = translate(error)
        if failure is None:
            raise
        raise failure from error
