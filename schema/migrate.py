"""Brings the database's tables to those of this release, by the migrations that the package carries.

Any number of processes may call `upgrade` at once: one migrates, the others wait for it. On SQLite it is one
transaction; MySQL commits each statement by itself, so an interrupted run is taken up where it stopped.
"""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from schema.database import reading
from schema.tables import metadata

VERSION_TABLE = "rag_outbox_revision"  # our own, since an upstream service may keep an alembic_version beside us
_LOCK_TIMEOUT_SECONDS = 300


class SchemaError(Exception):
    """Raised when the tables cannot be brought to those of this release; the message says why."""


class SchemaOutdated(SchemaError):
    """Raised when the database is empty or its tables are another release's; the message says what to do."""


def upgrade(engine: Engine) -> None:
    """Bring the database to this release's tables; does nothing where it has them.

    Raises SchemaOutdated when a newer release made the tables, SchemaError when others of the same name exist or
    another process has been migrating for too long. A SQLite engine must come from `schema.database.connect`.
    """
    if current(engine) == _scripts().get_current_head():
        return
    with engine.connect() as connection:
        if connection.dialect.name == "mysql":
            _hold_mysql_lock(connection)
        with connection.begin():
            _require_upgradable(connection)
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def current(engine: Engine) -> str | None:
    """The revision of the database's tables; None where it has none."""
    with reading(engine) as connection:
        return _revision(connection)


def require_current(engine: Engine) -> None:
    """Return if the database has this release's tables; raise SchemaOutdated if not."""
    found, needed = current(engine), _scripts().get_current_head()
    if found == needed:
        return
    _refuse_newer(found)
    if found is None:
        raise SchemaOutdated("the database has no rag-outbox tables yet: run rag-outbox init")
    raise SchemaOutdated(f"the database's tables are at revision {found}, not at {needed}: run rag-outbox init")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "schema:migrations")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _hold_mysql_lock(connection: Connection) -> None:
    """Take the advisory lock of this database; it ends with the connection, which leaves the pool for that reason."""
    connection.detach()
    name = "CONCAT('rag-outbox ', LEFT(SHA2(DATABASE(), 256), 32))"  # a lock's name is the whole server's
    taken = connection.scalar(text(f"SELECT GET_LOCK({name}, :seconds)"), {"seconds": _LOCK_TIMEOUT_SECONDS})
    connection.rollback()
    if taken != 1:
        raise SchemaError(f"another process has been migrating this database for {_LOCK_TIMEOUT_SECONDS} seconds")


def _require_upgradable(connection: Connection) -> None:
    _refuse_newer(_revision(connection))
    present = set(inspect(connection).get_table_names())
    taken = sorted(present & set(metadata.tables))
    if taken and VERSION_TABLE not in present:
        raise SchemaError(
            f"the database has tables that rag-outbox did not make: {', '.join(taken)}; rename them, or use another one"
        )


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaOutdated(
            f"the database's tables are at revision {revision}, which this release does not know: "
            "a newer rag-outbox made them, install that one"
        )
