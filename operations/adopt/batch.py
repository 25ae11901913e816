"""One batch of an adoption: a transaction, with the vectors and files that the writer asks for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection, select

from operations.adopt.changed import ADOPT, ChangedSince, find_changed, refuse_changed
from operations.adopt.documents import OldDocument
from operations.adopt.errors import BadDocument
from operations.adopt.files import OldFiles
from operations.adopt.report import Report
from operations.adopt.vectors import OldCollection
from operations.ingest import upsert
from operations.wiring import System
from producer import Document, FileRequired, InvalidDocument, VectorRequired
from producer.validation import validate
from schema.database.connection import reading
from schema.database.tables import documents

_CHANGED = "changed since it was adopted; --overwrite replaces it by its old state"


class BatchWriter:
    """Writes batches; in a dry run it reads and checks the same and writes nothing."""

    def __init__(
        self,
        system: System,
        collection: OldCollection,
        files: OldFiles | None,
        report: Report,
        *,
        dry_run: bool,
        overwrite: bool,
    ) -> None:
        self._system = system
        self._collection = collection
        self._files = files
        self._report = report
        self._dry_run = dry_run
        self._overwrite = overwrite
        self._context = {ADOPT: collection.name}
        self._writer = system.writer()

    def write(self, batch: Sequence[OldDocument]) -> None:
        """Raises TooManyFailures, and what the stores raise: then nothing of the batch is written."""
        olds = self._drop_changed({old.document.doc_id: old for old in self._valid(batch)})
        if self._dry_run:
            self._check(olds)
            return
        ready = self._with_files(olds)
        while ready:
            try:
                receipts, _ = upsert.upsert(
                    self._system.engine,
                    self._system.store,
                    self._writer,
                    list(ready.values()),
                    None,
                    context=self._context,
                    before=partial(self._refuse_changed, list(ready)),
                )
            except ChangedSince as error:  # since this batch began
                for doc_id in error.doc_ids:
                    del ready[doc_id]
                    self._report.skip(doc_id, _CHANGED)
            except VectorRequired as error:
                self._give_vectors(ready, olds, error.chunks)
            except FileRequired as error:
                if ready[error.doc_id].file is None and olds[error.doc_id].file_key is not None:
                    self._give_file(ready, olds[error.doc_id])
                else:
                    self._drop(ready, error.doc_id, str(error))
            except InvalidDocument as error:
                self._drop(ready, str(error.doc_id), _describe(error))
            else:
                changed = sum(receipt.changed for receipt in receipts)
                self._report.total.written += changed
                self._report.total.unchanged += len(receipts) - changed
                self._count(ready.values())
                return

    def _drop_changed(self, olds: Mapping[str, OldDocument]) -> dict[str, OldDocument]:
        """Without the documents that were changed since they were adopted: their files are not even read."""
        changed: set[str] = set()
        if olds and not self._overwrite:
            with reading(self._system.engine) as connection:
                changed = find_changed(connection, list(olds))
        for doc_id in sorted(changed):
            self._report.skip(doc_id, _CHANGED)
        return {doc_id: old for doc_id, old in olds.items() if doc_id not in changed}

    def _refuse_changed(self, doc_ids: Sequence[str], connection: Connection) -> None:
        if not self._overwrite:
            refuse_changed(connection, doc_ids)

    def _valid(self, batch: Iterable[OldDocument]) -> list[OldDocument]:
        """The documents that keep every limit that can be checked before vectors and files are read."""
        valid = []
        for old in batch:
            try:
                validate(old.document, old.document.embedding_model or "", self._system.identity.dimension)
                valid.append(old)
            except InvalidDocument as error:
                self._report.fail(old.document.doc_id, _describe(error))
        return valid

    def _check(self, olds: Mapping[str, OldDocument]) -> None:
        ready = {doc_id: old.document for doc_id, old in olds.items()}
        for doc_id, old in olds.items():
            if self._files is None or old.file_key is None:
                continue
            try:
                self._files.find(old.file_key)
                self._report.total.files += 1
            except BadDocument as error:
                self._drop(ready, doc_id, str(error))
        self._give_vectors(ready, olds, {doc_id: range(len(one.chunks or ())) for doc_id, one in ready.items()})
        for doc_id, document in list(ready.items()):
            try:
                validate(document, document.embedding_model or "", self._system.identity.dimension)
            except InvalidDocument as error:
                self._drop(ready, doc_id, _describe(error))
        self._report.total.valid += len(ready)
        self._count(ready.values())

    def _with_files(self, olds: Mapping[str, OldDocument]) -> dict[str, Document]:
        """The documents with those files that differ from what the system holds."""
        ready = {doc_id: old.document for doc_id, old in olds.items()}
        if self._files is None:
            return ready
        known = self._select_digests(list(olds))
        for old in olds.values():
            self._give_file(ready, old, known.get(old.document.doc_id))
        return ready

    def _select_digests(self, doc_ids: Sequence[str]) -> dict[str, str | None]:
        living = select(documents.c.doc_id, documents.c.content_sha256).where(
            documents.c.doc_id.in_(doc_ids), documents.c.deleted_at.is_(None)
        )
        with reading(self._system.engine) as connection:
            return {row.doc_id: row.content_sha256 for row in connection.execute(living)}

    def _give_file(self, ready: dict[str, Document], old: OldDocument, known_sha256: str | None = None) -> None:
        """Add the document's file unless it is large and has this digest; drop the document if it is missing."""
        if self._files is None or old.file_key is None:
            return
        doc_id = old.document.doc_id
        try:
            file = self._files.fetch(old.file_key, self._system.store, known_sha256=known_sha256)
        except BadDocument as error:
            self._drop(ready, doc_id, str(error))
            return
        if file is not None:
            self._report.total.files += 1
            ready[doc_id] = replace(ready[doc_id], file=file)

    def _give_vectors(
        self, ready: dict[str, Document], olds: Mapping[str, OldDocument], wanted: Mapping[str, Sequence[int]]
    ) -> None:
        """Add the vectors of these chunks, by doc_id and position; drop the documents that lack one."""
        ids = [olds[doc_id].vector_ids[position] for doc_id, positions in wanted.items() for position in positions]
        found = self._collection.vectors(ids)
        for doc_id, positions in wanted.items():
            chunks = list(ready[doc_id].chunks or ())
            for position in positions:
                vector_id = olds[doc_id].vector_ids[position]
                rows = found.get(vector_id, [])
                if len(rows) != 1:
                    there = "no vector" if not rows else f"{len(rows)} vectors"
                    self._drop(ready, doc_id, f"chunks[{position}].vector: {there} in Milvus with the id {vector_id!r}")
                    break
                chunks[position] = replace(chunks[position], vector=rows[0].vector, sparse=rows[0].sparse)
            else:
                self._report.total.vectors += len(positions)
                ready[doc_id] = replace(ready[doc_id], chunks=chunks)

    def _drop(self, ready: dict[str, Document], doc_id: str, reason: str) -> None:
        del ready[doc_id]
        self._report.fail(doc_id, reason)

    def _count(self, done: Iterable[Document]) -> None:
        self._report.total.chunks += sum(len(document.chunks or ()) for document in done)


def _describe(error: InvalidDocument) -> str:
    return str(error).removeprefix(f"document {error.doc_id!r}: ")
