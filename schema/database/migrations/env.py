"""Run by Alembic for every command: migrates on the connection of `schema.database.migrate`, in its transaction."""

from alembic import context

from schema.database.revision import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
