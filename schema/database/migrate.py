"""Upgrades the database to the tables of this release, by the migrations in the package.

Any number of processes may call `upgrade` concurrently: one migrates, the others wait. On SQLite an upgrade is one
transaction. MySQL commits every statement separately, so the next run continues where an interrupted one stopped.
"""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from schema.database import revision
from schema.database.tables import metadata

_LOCK_TIMEOUT_SECONDS = 300


def upgrade(engine: Engine) -> None:
    """Upgrade the database to the tables of this release; does nothing if it has them, or later compatible ones.

    Raises WrongRevision if a newer release upgraded the tables, and this code does not work with them. Raises
    SchemaError if foreign tables have our names, or if another process migrates for too long. A SQLite engine must come
    from `connection.connect`.
    """
    if not revision.needs_upgrade(revision.current(engine)):
        return
    with engine.connect() as connection:
        if connection.dialect.name == "mysql":
            _hold_mysql_lock(connection)
        with connection.begin():
            found = revision.of(connection)  # another process may have upgraded it, even to a later release
            if not revision.needs_upgrade(found):
                return
            if found is None:
                _refuse_foreign_tables(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "schema.database:migrations")
    return config


def _hold_mysql_lock(connection: Connection) -> None:
    """Take the advisory lock of this database. The connection leaves the pool: closing it releases the lock."""
    connection.detach()
    name = "CONCAT('rag-outbox ', LEFT(SHA2(DATABASE(), 256), 32))"  # the names of locks are global to the server
    taken = connection.scalar(text(f"SELECT GET_LOCK({name}, :seconds)"), {"seconds": _LOCK_TIMEOUT_SECONDS})
    connection.rollback()
    if taken != 1:
        raise revision.SchemaError(
            f"another process has been migrating this database for {_LOCK_TIMEOUT_SECONDS} seconds"
        )


def _refuse_foreign_tables(connection: Connection) -> None:
    present = set(inspect(connection).get_table_names())
    taken = sorted(present & set(metadata.tables))
    if taken and revision.VERSION_TABLE not in present:  # else an interrupted first migration created them
        raise revision.SchemaError(
            f"the database has tables that rag-outbox did not create: {', '.join(taken)}; rename them or use "
            "another database"
        )
