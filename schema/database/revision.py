"""Checks whether the database has the tables of this release.

Every process checks this when it starts, so this module does not import Alembic, which is slow to import.
"""

from sqlalchemy import Connection, Engine, inspect, text

from schema.database.connection import reading

REVISIONS = ("0001",)  # in schema/database/migrations/versions, in order
VERSION_TABLE = "rag_outbox_revision"  # an upstream service may have its own alembic_version


class SchemaError(Exception):
    """Raised when the tables cannot be upgraded to this release; the message says why."""


class SchemaOutdated(SchemaError):
    """Raised when the database is empty or has the tables of another release; the message says what to do."""


def current(engine: Engine) -> str | None:
    """The revision of the tables in the database; None if it has none."""
    with reading(engine) as connection:
        return of(connection)


def require_current(engine: Engine) -> None:
    """Raise SchemaOutdated unless the database has the tables of this release."""
    found = current(engine)
    if found == REVISIONS[-1]:
        return
    refuse_newer(found)
    if found is None:
        raise SchemaOutdated("the database has no rag-outbox tables yet: run rag-outbox init")
    raise SchemaOutdated(f"the tables are at revision {found}, not at {REVISIONS[-1]}: run rag-outbox init")


def of(connection: Connection) -> str | None:
    """The revision of the tables, read through an open connection; None if there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return None if revision is None else str(revision)


def refuse_newer(revision: str | None) -> None:
    """Raise SchemaOutdated if this release does not know the revision."""
    if revision is not None and revision not in REVISIONS:
        raise SchemaOutdated(
            f"the tables are at revision {revision}, which this release does not know: "
            "a newer rag-outbox created them; install that release"
        )
