"""Brings the database's tables to those of this release, by the migrations that the package carries.

Any number of processes may call `upgrade` at once: one migrates, the others wait for it. On SQLite it is one
transaction; MySQL commits each statement by itself, so an interrupted run is taken up where it stopped.
"""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from schema.database import revision
from schema.database.tables import metadata

_LOCK_TIMEOUT_SECONDS = 300


def upgrade(engine: Engine) -> None:
    """Bring the database to this release's tables; does nothing where it has them.

    Raises SchemaOutdated when a newer release made the tables, SchemaError when others of the same name exist or
    another process has been migrating for too long. A SQLite engine must come from `connection.connect`.
    """
    if revision.current(engine) == revision.REVISIONS[-1]:
        return
    with engine.connect() as connection:
        if connection.dialect.name == "mysql":
            _hold_mysql_lock(connection)
        with connection.begin():
            _require_upgradable(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "schema.database:migrations")
    return config


def _hold_mysql_lock(connection: Connection) -> None:
    """Take the advisory lock of this database; it ends with the connection, which leaves the pool for that reason."""
    connection.detach()
    name = "CONCAT('rag-outbox ', LEFT(SHA2(DATABASE(), 256), 32))"  # a lock's name is the whole server's
    taken = connection.scalar(text(f"SELECT GET_LOCK({name}, :seconds)"), {"seconds": _LOCK_TIMEOUT_SECONDS})
    connection.rollback()
    if taken != 1:
        raise revision.SchemaError(
            f"another process has been migrating this database for {_LOCK_TIMEOUT_SECONDS} seconds"
        )


def _require_upgradable(connection: Connection) -> None:
    revision.refuse_newer(revision.of(connection))
    present = set(inspect(connection).get_table_names())
    taken = sorted(present & set(metadata.tables))
    if taken and revision.VERSION_TABLE not in present:
        raise revision.SchemaError(
            f"the database has tables that rag-outbox did not make: {', '.join(taken)}; rename them, or use another one"
        )
