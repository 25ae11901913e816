"""Archives: remove the texts and vectors that the chunks of a document no longer need.

A row that no chunk needs is first moved to a *superseded* object. That object is removed after the limit, by the
store's clock: until then, a database that is restored from a backup finds the row. New objects are written before the
old one is removed, and only if the document and the marks of its sinks have not changed since they were read. The next
run finds what a process that died left behind.

Skipped are documents that a sink does not hold, suspects, and archives that lack a vector.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import Engine

import producer
from consumers.minio.translate import translate_errors
from operations.retention import runs
from operations.retention.archive_rows import ArchiveMoved, inspect, split
from operations.retention.archived_documents import ArchivedDocument, look, look_with_chunks
from operations.retention.policy import ARCHIVES, Preview
from operations.retention.tidied import note_tidied
from operations.staging import read_clock
from schema.batches import bounded
from schema.object_store import layout
from schema.object_store.port import ObjectStore

_KEYS = 1_000  # per batch, and one document more
_DOCUMENTS = 100
_HALF_A_DAY = 12 * 3_600.0  # a run lists every object of the archive

Listed = tuple[str, datetime]  # key, and when it was written


@dataclass
class _Found:
    """The objects of one document, as they were listed."""

    doc_id: str
    objects: list[Listed] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.objects]


class Archives:
    name = ARCHIVES
    every_seconds = _HALF_A_DAY

    def __init__(self, engine: Engine, store: ObjectStore, days: int) -> None:
        self._engine = engine
        self._store = store
        self._days = days
        self.blocked = 0

    def preview(self) -> Preview:
        count, oldest, unchecked = 0, None, 0
        for batch, before in self._list("", None):
            documents = look(self._engine, [one.doc_id for one in batch])
            for one in batch:
                document = documents.get(one.doc_id)
                if document is None or not document.may_be_tidied:
                    continue
                going = _find_going(document, one, before, is_checked=not _needs_check(document))
                count += len(going)
                oldest = min((at for key, at in one.objects if key in going), default=oldest)
                unchecked += _needs_check(document)
        note = f"the archives of {unchecked} documents were not looked at since their last version" if unchecked else ""
        return Preview(count, None if oldest is None else oldest.replace(tzinfo=None), note=note)

    def batches(self) -> Generator[int, None, None]:
        """From where the last run ended to the end of the bucket, and from its start to there."""
        self.blocked = 0
        began = runs.read_position(self._engine, ARCHIVES)
        for after, upto in ((began, None), ("", began)) if began else (("", None),):
            for batch, before in self._list(after, upto):
                removed = self._tidy(batch, before)
                runs.save_position(self._engine, ARCHIVES, batch[-1].keys[-1])
                yield removed
        runs.save_position(self._engine, ARCHIVES, "")

    def _list(self, after: str, upto: str | None) -> Iterator[tuple[list[_Found], datetime]]:
        """Batches of whole documents, and the time before which superseded objects go."""
        with translate_errors():
            if next(iter(self._store.keys(layout.ARCHIVES_PREFIX, after=after)), None) is None:
                return
            before = read_clock(self._store) - timedelta(days=self._days)
            listed = self._store.written_at(layout.ARCHIVES_PREFIX, after=after)
            found = (
                _Found(doc_id, list(objects)) for doc_id, objects in groupby(listed, key=lambda one: _doc_id_of(one[0]))
            )
            for batch in bounded(found, _DOCUMENTS, _KEYS, lambda one: len(one.objects)):
                yield batch, before
                if upto is not None and batch[-1].keys[-1] >= upto:
                    return

    def _tidy(self, batch: Sequence[_Found], before: datetime) -> int:
        documents = look(self._engine, [one.doc_id for one in batch])
        going: list[str] = []
        checked: dict[str, int] = {}
        with translate_errors():
            for one in batch:
                document = documents.get(one.doc_id)
                if document is None:
                    continue  # reconcile names it
                if not document.may_be_tidied:
                    self.blocked += 1
                    continue
                if _needs_check(document):
                    version = self._check(one.doc_id)
                    if version is None:
                        self.blocked += 1
                        continue
                    checked[one.doc_id] = version
                going += _find_going(document, one, before, is_checked=True)
            producer.run(self._engine, lambda connection: note_tidied(connection, checked))
            self._store.remove(going)
        return len(going)

    def _check(self, doc_id: str) -> int | None:
        """Move what the chunks do not need to superseded objects. Returns the version whose archive is tidy now."""
        document, wanted = look_with_chunks(self._engine, doc_id)
        if document is None or document.is_deleted or not document.may_be_tidied:
            return None
        keys = [key for key in self._store.keys(layout.embeddings_prefix(doc_id)) if _is_of(document, key)]
        written: list[str] = []
        try:
            inspection = inspect(self._store, keys, wanted)
            if inspection.lacking:
                return None
            replaced = inspection.to_rewrite()
            for key in replaced:
                written += split(self._store, key, inspection.needed[key], keeps_others=True)
        except ArchiveMoved:
            self._store.remove(written)
            return None
        if look(self._engine, [doc_id]).get(doc_id) != document:
            self._store.remove(written)  # the old objects are still there, if anybody needs them
            return None
        self._store.remove([key for key in replaced if not layout.is_superseded_key(key)])
        return document.version


def _needs_check(document: ArchivedDocument) -> bool:
    """The archive of a first version has nothing else."""
    return not document.is_deleted and document.version > max(1, document.tidied_version)


def _find_going(document: ArchivedDocument, found: _Found, before: datetime, *, is_checked: bool) -> list[str]:
    """The objects to remove: of a deleted document all, of another one those that were superseded before the limit."""
    if document.is_deleted:
        return [key for key in found.keys if _is_of(document, key)]
    if not is_checked:
        return []
    return [key for key, at in found.objects if layout.is_superseded_key(key) and at < before]


def _is_of(document: ArchivedDocument, key: str) -> bool:
    """Whether it is an object of this or an older version: the next version may just have been archived."""
    return 0 < layout.embeddings_version(key) <= document.version


def _doc_id_of(key: str) -> str:
    return key.removeprefix(layout.ARCHIVES_PREFIX).partition("/")[0]
