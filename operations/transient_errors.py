"""Notes the transient errors of a database by error code: each of them makes a transaction run again."""

from collections.abc import Callable

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from schema.database.connection import is_transient


def note_transient_errors(engine: Engine, note: Callable[[str], None]) -> None:
    """Call `note` with the code of each from now on.

    Codes: "1213" deadlock, "1205" lock wait, "2006" and "2013" lost connection, "busy" SQLite.
    """

    def handle(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if context.is_pre_ping:  # of a connection that was idle: nothing runs again
            return
        if error is not None and (context.is_disconnect or is_transient(error)):
            arguments = getattr(context.original_exception, "args", ())
            note(str(arguments[0]) if arguments and isinstance(arguments[0], int) else "busy")

    event.listen(engine, "handle_error", handle)
