"""The object-store sink: files at their final keys, and an archive of vectors from which Milvus can be rebuilt."""

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from consumers.minio.translate import translate_errors
from consumers.sink import Change
from schema import archive
from schema.events.events import DocumentDeleted, DocumentUpserted, FileRecord
from schema.failures import Permanent, SourceGone, StoreMissing
from schema.object_store import layout, marker
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.port import BucketMissing, ObjectMissing, ObjectStore
from schema.ownership import require_own
from schema.sinks import MINIO

_PARALLEL_DOCUMENTS = 8  # hides the latency of the store's requests


class MinioSink:
    """Any S3-compatible server, or a directory, behind the object store port."""

    name = MINIO
    takes_vectors = True  # into the archive
    takes_files = True

    def __init__(self, store: ObjectStore, system_id: str) -> None:
        self._store = store
        self._system_id = system_id
        self._pool = ThreadPoolExecutor(_PARALLEL_DOCUMENTS, thread_name_prefix="minio-sink")

    def create(self) -> None:
        with translate_errors():
            self._store.ensure()
            marker.claim(self._store, self._system_id)
        self.ensure()

    def ensure(self) -> None:
        with translate_errors():
            place = self._store.location(SYSTEM_ID_KEY)
            bucket = place.removesuffix(f"/{SYSTEM_ID_KEY}")
            if not self._store.exists():
                raise BucketMissing(bucket)
            owner = marker.read(self._store)
        if owner is None:  # not the bucket that `init` made
            raise StoreMissing(f"there is no object {place}, which names the system of the bucket: run rag-outbox init")
        separate = "RAG_OUTBOX_NAMESPACE or RAG_OUTBOX_OBJECT_STORE_BUCKET"
        require_own(f"the bucket {bucket}", owner, self._system_id, separate=separate)

    def apply(self, changes: Sequence[Change]) -> None:
        failed = threading.Event()
        outcomes = [self._pool.submit(self._apply_unless, failed, change) for change in changes]
        wait(outcomes)  # a failed batch is applied again: none of its requests may still run then
        for outcome in outcomes:
            with translate_errors():
                outcome.result()

    def close(self) -> None:
        self._pool.shutdown()

    def _apply_unless(self, failed: threading.Event, change: Change) -> None:
        """Skip the change once another one has failed: each would wait for a silent store again."""
        if failed.is_set():
            return
        try:
            self._apply_one(change)
        except BaseException:
            failed.set()
            raise

    def _apply_one(self, change: Change) -> None:
        upserts = [event for event in change.events if isinstance(event, DocumentUpserted)]
        if change.replace:
            self._replace(change, upserts)
            return
        for event in upserts:
            self._write(event, event.part)
        for one in change.events:
            self._remove(one)

    def _replace(self, change: Change, upserts: Sequence[DocumentUpserted]) -> None:
        """Write the whole document, then remove every other object that was there before.

        The archive's new objects get new part numbers: an old one may hold vectors that no new one holds yet. What a
        newer version archived stays, and so does what is written during this call. If this consumer lost its
        partitions, only those objects have the vectors.
        """
        known = {file.object_key for event in upserts for file in event.files}
        removed = {key for event in change.events for key in event.removed_files}
        for prefix in layout.keys_prefixes(change.doc_id, known | removed):
            removed |= {key for key in self._store.keys(prefix) if layout.is_key_of(change.doc_id, key)}
        archived = archive.keys(self._store, change.doc_id)
        last, kept = archive.last_part(archived, change.version), set(known)
        if upserts:
            kept |= {key for key in archived if layout.embeddings_version(key) > change.version}
        for event in upserts:
            kept |= self._write(event, last + event.part)
        self._store.remove(sorted(removed - kept))

    def _write(self, event: DocumentUpserted, archive_part: int) -> set[str]:
        """Returns the keys of the archive's objects."""
        for file in event.files:
            if file.content is not None:
                self._put(file.object_key, file.content, file.content_type, file.sha256)
            else:
                self._unstage(file)
        if not event.chunks:
            return set()
        return {archive.write(self._store, event.doc_id, event.version, archive_part, event.chunks)}

    def _remove(self, event: DocumentUpserted | DocumentDeleted) -> None:
        """What a newer version archived stays: if this consumer lost its partitions, only that has the vectors."""
        self._store.remove(event.removed_files)
        if isinstance(event, DocumentDeleted):
            archived = archive.keys(self._store, event.doc_id)
            self._store.remove([key for key in archived if layout.embeddings_version(key) <= event.version])

    def _put(self, key: str, content: bytes, content_type: str, sha256: str) -> None:
        self._store.put(key, io.BytesIO(content), size_bytes=len(content), content_type=content_type, sha256=sha256)

    def _unstage(self, file: FileRecord) -> None:
        """Copy a staged file to its key. It may be gone if the key holds its bytes: this version was applied before."""
        if file.staged_key is None:
            raise Permanent(f"file {file.object_key!r} has neither content nor a staged object")
        try:
            self._store.copy(file.staged_key, file.object_key, content_type=file.content_type, sha256=file.sha256)
        except ObjectMissing as error:
            if self._store.sha256(file.object_key) != file.sha256:
                raise SourceGone(
                    f"the staged object {file.staged_key!r} of file {file.object_key!r} is gone"
                ) from error
