"""Dead letters: those that were closed before the limit are removed. An open one never is: it needs a person."""

from sqlalchemy import Engine

from operations.retention.old_rows import OldRows
from operations.retention.policy import DEAD_LETTERS
from schema.database.tables import outbox_dead_letters

_ROWS = 20  # with payloads of up to a megabyte, which the binary log gets once more


def old_dead_letters(engine: Engine, days: int) -> OldRows:
    columns = outbox_dead_letters.c
    return OldRows(
        engine,
        DEAD_LETTERS,
        outbox_dead_letters,
        columns.id,
        columns.closed_at,
        lambda limit: columns.closed_at < limit,
        days,
        _ROWS,
        still=lambda limit: columns.closed_at < limit,  # a stage may have refused the event again, which opens it
    )
