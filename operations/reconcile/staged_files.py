"""Staged objects that the sweep should have removed: older than a day, and named by no row that still needs them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from consumers.minio.translate import translate_errors
from operations import staging
from operations.reconcile.difference import Difference
from schema import limits
from schema.batches import bounded
from schema.database.statements import IDS_PER_STATEMENT
from schema.object_store.layout import STAGING_PREFIX
from schema.object_store.port import ObjectStore
from schema.sinks import MINIO

_AGE = timedelta(hours=2 * limits.STAGED_FILE_HOURS + 2)  # the sweep runs hourly, by the clock of the store


def find_left_over(engine: Engine, store: ObjectStore, *, now: datetime | None = None) -> Iterator[Difference]:
    before = (now or datetime.now(UTC)) - _AGE
    with translate_errors():
        old = (key for key, at in store.written_at(STAGING_PREFIX) if at < before)
        for keys in bounded(old, IDS_PER_STATEMENT):
            for key in staging.select_unneeded(engine, keys):
                yield Difference(MINIO, "staged", "", key, "no document needs it, and no sweep removed it")
