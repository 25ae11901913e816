"""Whether the database has this release's tables; asked at every start, so without Alembic, which is slow to import."""

from sqlalchemy import Connection, Engine, inspect, text

from schema.database.connection import reading

REVISIONS = ("0001",)  # of schema/database/migrations/versions, in their order
VERSION_TABLE = "rag_outbox_revision"  # our own, since an upstream service may keep an alembic_version beside us


class SchemaError(Exception):
    """Raised when the tables cannot be brought to those of this release; the message says why."""


class SchemaOutdated(SchemaError):
    """Raised when the database is empty or its tables are another release's; the message says what to do."""


def current(engine: Engine) -> str | None:
    """The revision of the database's tables; None where it has none."""
    with reading(engine) as connection:
        return of(connection)


def require_current(engine: Engine) -> None:
    """Return if the database has this release's tables; raise SchemaOutdated if not."""
    found = current(engine)
    if found == REVISIONS[-1]:
        return
    refuse_newer(found)
    if found is None:
        raise SchemaOutdated("the database has no rag-outbox tables yet: run rag-outbox init")
    raise SchemaOutdated(f"the database's tables are at revision {found}, not at {REVISIONS[-1]}: run rag-outbox init")


def of(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return None if revision is None else str(revision)


def refuse_newer(revision: str | None) -> None:
    """Raise SchemaOutdated for a revision that this release does not know."""
    if revision is not None and revision not in REVISIONS:
        raise SchemaOutdated(
            f"the database's tables are at revision {revision}, which this release does not know: "
            "a newer rag-outbox made them, install that one"
        )
