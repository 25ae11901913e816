"""The clock of the database, in UTC whatever the time zone of the session."""

from typing import Any

from sqlalchemy import DateTime
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class utc_now(FunctionElement[Any]):
    """The current time of the database, in UTC. MySQL has microseconds, SQLite milliseconds."""

    type = DateTime()
    inherit_cache = True


@compiles(utc_now, "mysql")
def _mysql(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "(UTC_TIMESTAMP(6))"


@compiles(utc_now, "sqlite")
def _sqlite(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"
