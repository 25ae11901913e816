"""Checks whether the code of this release works with the tables in the database.

Every process checks this when it starts, so this module does not import Alembic, which is slow to import.
A revision is named `<number>_from_<oldest>`: code of the revision `<oldest>` or a later one works with its tables. So a
release knows whether it works with a revision that it does not know.
"""

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from schema.database.connection import reading

REVISIONS = ("0001",)  # in schema/database/migrations/versions, in order
OLDEST = "0001"  # the number of the oldest revision that this code works with
VERSION_TABLE = "rag_outbox_revision"  # an upstream service may have its own alembic_version
NO_TABLES = "the database has no rag-outbox tables yet: run rag-outbox init"
_MYSQL_NO_SUCH_TABLE = 1146


class SchemaError(Exception):
    """Raised when the tables cannot be upgraded to this release; the message says why."""


class WrongRevision(SchemaError):
    """Raised when this code does not work with the tables in the database, or there are none; says what to do."""


def current(engine: Engine) -> str | None:
    """The revision of the tables in the database; None if it has none."""
    with reading(engine) as connection:
        return of(connection)


def of(connection: Connection) -> str | None:
    """The revision of the tables, read by one statement; None if there are none."""
    try:
        found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    except DBAPIError as error:
        if is_missing_table(error):
            return None
        raise
    return None if found is None else str(found)


def require_compatible(connection: Connection) -> None:
    """Check by one statement that this code works with the tables. Raises WrongRevision."""
    found = of(connection)
    if found is None:
        raise WrongRevision(NO_TABLES)
    require_usable(found)


def require_usable(found: str) -> None:
    """Raises WrongRevision if this code does not work with tables of the revision `found`."""
    needs_upgrade(found)  # raises if they are too new
    if number(found) < OLDEST:
        raise WrongRevision(
            f"the tables are at revision {number(found)}, and this release needs {OLDEST} or later: run rag-outbox init"
        )


def needs_upgrade(found: str | None) -> bool:
    """Whether the tables of the revision `found` are older than this release.

    Raises WrongRevision if they are newer, and this code does not work with them.
    """
    if found is None or found in REVISIONS:
        return found != REVISIONS[-1]
    newest = number(REVISIONS[-1])
    if oldest_code(found) > newest:
        raise WrongRevision(
            f"the tables are at revision {number(found)}, which needs a release of revision {oldest_code(found)} or "
            f"later; this one has {newest}: a newer rag-outbox upgraded them; install that release"
        )
    return number(found) < newest  # an old one may have left the list


def number(revision: str) -> str:
    """Its place in the order of revisions: four digits."""
    return revision.partition("_from_")[0]


def oldest_code(revision: str) -> str:
    """The number of the oldest revision whose code works with the tables of this one."""
    return revision.partition("_from_")[2] or number(revision)


def is_missing_table(error: DBAPIError) -> bool:
    """Whether a statement failed because its table does not exist."""
    reason = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return reason == _MYSQL_NO_SUCH_TABLE or str(reason).startswith("no such table: ")
