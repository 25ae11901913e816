"""Files in the object store against `document_files`, both ways: slices of the object keys, compared by key."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select

from consumers import marks
from consumers.marks import Known
from consumers.minio.translate import translate_errors
from operations.reconcile.confirm_rows import is_settled
from operations.reconcile.difference import Difference
from operations.reconcile.findings import Findings
from operations.reconcile.listing import BEHIND, Listing
from operations.reconcile.pace import Pace
from operations.reconcile.scope import Scope
from operations.reconcile.slices import read_slices
from schema.batches import bounded
from schema.database.connection import snapshot
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import document_files
from schema.events.identity import doc_id_error
from schema.object_store import layout
from schema.object_store.layout import STAGING_PREFIX, SYSTEM_ID_KEY
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_ARCHIVES = layout.embeddings_prefix("").rstrip("/") + "/"
# Compared elsewhere, or kept for other purposes.
_OTHERS = re.compile(rf"{SYSTEM_ID_KEY}|{STAGING_PREFIX}.*|models/.*|backups/.*", re.DOTALL)
_EXISTS = "exists"  # with a digest that nobody asked for
_THREADS = 16  # a request per object hides its latency behind the others


@dataclass(frozen=True, slots=True)
class _File:
    doc_id: str
    sha256: str
    is_removed: bool


def compare_files(
    engine: Engine, store: ObjectStore, scope: Scope, findings: Findings, pace: Pace, after: str = ""
) -> Iterator[str]:
    """Yields the object key up to which everything is compared and confirmed."""
    files = document_files.c
    statement = select(files.object_key, files.doc_id, files.sha256, files.removed_in_version)
    rows = min(scope.slice_rows, IDS_PER_STATEMENT)
    listing = Listing(store, "")
    for one in read_slices(engine, statement, files.object_key, rows=rows, sample=scope.sample, after=after):
        wanted = {row.object_key: row for row in one.rows}
        listed: set[str] = set()
        for keys in bounded(_list(listing, one.after, one.upto), IDS_PER_STATEMENT):
            pace.spend(len(keys))
            findings.compared[MINIO] += len(keys)
            listed |= wanted.keys() & set(keys)
            unknown = [key for key in keys if key not in wanted]
            findings.add(_confirm(engine, store, {key: layout.doc_id_of(key) or "" for key in unknown}, scope))
        candidates = {
            key: row.doc_id
            for key, row in wanted.items()
            if row.removed_in_version is None and (key not in listed or scope.digests)
        }
        findings.add(_confirm(engine, store, candidates, scope))
        if one.upto is not None:
            yield one.upto


def _list(listing: Listing, after: str, upto: str | None) -> Iterator[str]:
    """Without the archive, which `archives` compares, and without what no document owns."""
    behind = _ARCHIVES + BEHIND
    if after < _ARCHIVES:
        for key in listing.read(after, min(upto or _ARCHIVES, _ARCHIVES)):
            if _OTHERS.fullmatch(key) is None:
                yield key
    if upto is None or upto > behind:
        for key in listing.read(max(after, behind), upto):
            if _OTHERS.fullmatch(key) is None:
                yield key


def _confirm(engine: Engine, store: ObjectStore, candidates: Mapping[str, str], scope: Scope) -> Iterator[Difference]:
    """`candidates` maps object keys to documents, '' if none. See `confirm_rows` for why this order is right."""
    for some in bounded(sorted(candidates), IDS_PER_STATEMENT):
        doc_ids = {candidates[key] for key in some}
        before = _look(engine, some, doc_ids)
        owned = [key for key in some if candidates[key]]
        held = _ask(store, owned, digests=scope.digests)
        after = _look(engine, some, doc_ids)
        for key in some:
            doc_id = candidates[key]
            file, known = before[0].get(key), before[1].get(doc_id)
            if (file, known) == (after[0].get(key), after[1].get(doc_id)):
                yield from _judge(key, doc_id, file, known, held.get(key, _EXISTS))


def _ask(store: ObjectStore, keys: Sequence[str], *, digests: bool) -> dict[str, str | None]:
    """What the store holds at these keys: a digest, _EXISTS if it is not known, or None."""

    def ask(key: str) -> str | None:
        digest = store.sha256(key) if digests else None
        if digest is None and next(store.keys(key), None) == key:  # an object of another writer may have no digest
            return "" if digests else _EXISTS
        return digest

    with translate_errors(), ThreadPoolExecutor(_THREADS, thread_name_prefix="reconcile") as pool:
        return dict(zip(keys, pool.map(ask, keys), strict=True))


def _judge(key: str, doc_id: str, file: _File | None, known: Known | None, held: str | None) -> Iterator[Difference]:
    if file is None:
        if held is None:
            return
        if not doc_id or doc_id_error(doc_id):
            yield Difference(MINIO, "foreign", "", key, "no document has such a key")
        elif known is None:
            yield Difference(MINIO, "orphaned", doc_id, key, "no such document")
        elif is_settled(known):
            yield Difference(MINIO, "orphaned", doc_id, key, "the document has no such file")
        return
    if file.doc_id != doc_id or file.is_removed or not is_settled(known):
        return
    if held is None:
        yield Difference(MINIO, "missing", doc_id, key, "a file of the document")
    elif held not in (file.sha256, _EXISTS):
        yield Difference(MINIO, "stale", doc_id, key, f"its SHA-256 is {held or 'unknown'} instead of {file.sha256}")


View = tuple[Mapping[str, _File], Mapping[str, Known]]


def _look(engine: Engine, keys: Sequence[str], doc_ids: Collection[str]) -> View:
    with snapshot(engine) as connection:
        return _load_files(connection, keys), marks.load_known(connection, MINIO, sorted(doc_ids))


def _load_files(connection: Connection, keys: Sequence[str]) -> dict[str, _File]:
    found = connection.execute(select(document_files).where(document_files.c.object_key.in_(keys)))
    return {row.object_key: _File(row.doc_id, row.sha256, row.removed_in_version is not None) for row in found}
