"""Alembic runs this for every command: it migrates in the transaction that `schema.database.migrate` began."""

from alembic import context

from schema.database.revision import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
