"""Operation logs: rows older than the limit are removed, whatever document they belong to."""

from sqlalchemy import Engine

from operations.retention.old_rows import OldRows
from operations.retention.policy import OPERATION_LOGS
from schema.database.tables import operation_logs

_ROWS = 500


def old_operation_logs(engine: Engine, days: int) -> OldRows:
    columns = operation_logs.c
    return OldRows(
        engine,
        OPERATION_LOGS,
        operation_logs,
        columns.log_id,
        columns.created_at,
        lambda limit: columns.created_at < limit,
        days,
        _ROWS,
    )
