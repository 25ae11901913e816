"""Counts the transient errors of a database by error code: each of them makes a transaction run again."""

from collections import Counter

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from schema.database.connection import is_transient


def count_transient_errors(engine: Engine) -> Counter[str]:
    """Count from now on. Keys: "1213" deadlock, "1205" lock wait, "2006" and "2013" lost connection, "busy" SQLite."""
    found: Counter[str] = Counter()

    def note(context: ExceptionContext) -> None:
        if (code := code_of(context)) is not None:
            found[code] += 1

    event.listen(engine, "handle_error", note)
    return found


def code_of(context: ExceptionContext) -> str | None:
    """The code of a transient error; None for any other."""
    error = context.sqlalchemy_exception
    if error is None or not (context.is_disconnect or is_transient(error)):
        return None
    arguments = getattr(context.original_exception, "args", ())
    return str(arguments[0]) if arguments and isinstance(arguments[0], int) else "busy"
