"""The sweep of staged objects: removes those that no transaction, event or sink still needs.

A staged object is needed until every sink that takes files holds the version that names it. The sweep removes what is
older than a day by the store's clock and is named by no such row of `document_files` at that moment. A row cannot
appear afterwards: the writer takes a staged file for 12 hours, and leaves its transaction the other 12.
"""

import io
import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Engine, not_, select
from sqlalchemy.exc import DBAPIError

from consumers.minio.translate import translate_errors
from producer.processing.tasks import queue
from schema import limits
from schema.batches import bounded
from schema.database.connection import reading
from schema.database.statements import IDS_PER_STATEMENT
from schema.database.tables import document_files, sink_states, sinks
from schema.failures import Permanent, Retryable, StoreMissing
from schema.object_store.layout import STAGING_PREFIX, upload_id_of
from schema.object_store.port import ObjectStore
from schema.threads import run_in_background

_log = logging.getLogger(__name__)

_AGE = timedelta(hours=2 * limits.STAGED_FILE_HOURS)
_PAUSE_SECONDS = 3_600.0
_STOP_SECONDS = 5.0  # how long the end of a process waits for a sweep
_HOLDS_FILE = (
    select(sink_states.c.doc_id)
    .where(
        sink_states.c.doc_id == document_files.c.doc_id,
        sink_states.c.sink == sinks.c.name,
        sink_states.c.applied_version >= document_files.c.version,
    )
    .correlate(document_files, sinks)
    .exists()
)
_LACKS_FILE = (
    select(sinks.c.name)
    .where(sinks.c.takes_files, sinks.c.state != "leaving", not_(_HOLDS_FILE))
    .correlate(document_files)
    .exists()
)


def sweep(engine: Engine, store: ObjectStore, stop: threading.Event) -> int:
    """Remove what nobody needs, in bounded batches, until `stop` is set. Returns how many objects.

    Any number of sweeps may run at once. Raises Retryable, Permanent or StoreMissing, and DBAPIError.
    """
    removed = 0
    with translate_errors():
        if next(store.written_at(STAGING_PREFIX), None) is None:
            return 0
        before = read_clock(store) - _AGE
        old = (key for key, at in store.written_at(STAGING_PREFIX) if at < before)
        for keys in bounded(old, IDS_PER_STATEMENT):
            if stop.is_set():
                break
            unneeded = select_unneeded(engine, keys)
            store.remove(unneeded)
            removed += len(unneeded)
    return removed


@contextmanager
def sweep_hourly(engine: Engine, store: ObjectStore) -> Iterator[None]:
    """Sweep now and every hour until the context ends, in a thread of its own."""
    with run_in_background(lambda stop: _run(engine, store, stop), "staging-sweep", _STOP_SECONDS):
        yield


def _run(engine: Engine, store: ObjectStore, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            if removed := sweep(engine, store, stop):
                _log.info("staging_swept removed=%d", removed)
        except (Retryable, Permanent, StoreMissing) as error:
            _log.warning("staging_sweep_failed reason=%s", error)
        except DBAPIError as error:
            _log.warning("staging_sweep_failed reason=metadata database: %s", error.orig)
        stop.wait(_PAUSE_SECONDS)


def read_clock(store: ObjectStore) -> datetime:
    """The time by the store's clock: that of an object which is written now."""
    key = f"{STAGING_PREFIX}sweep_{uuid.uuid4().hex}"
    store.put(key, io.BytesIO(), size_bytes=0, content_type="application/octet-stream", sha256=None)
    try:
        [(_, now)] = store.written_at(key)
    finally:
        store.remove([key])
    return now


def select_unneeded(engine: Engine, keys: Sequence[str]) -> list[str]:
    """Those of these staged objects that no row needs."""
    files = document_files.c
    staged = select(files.staged_key).where(files.staged_key.in_(keys), _LACKS_FILE)
    final = select(files.object_key).where(files.object_key.in_(keys))  # a foreign writer chose a key of staging
    uploads = {key: upload_id for key in keys if (upload_id := upload_id_of(key)) is not None}
    with reading(engine) as connection:
        needed = {*connection.execute(staged).scalars(), *connection.execute(final).scalars()}
        of_tasks = queue.find_needed(connection, keys, sorted(set(uploads.values())))
    return [key for key in keys if key not in needed and not {key, uploads.get(key)} & of_tasks]
