"""Databases of other releases: made-up migrations after the real ones, and the schema of an older revision."""

from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from schema.database import migrate, revision

MIGRATIONS = Path(__file__).parents[2] / "schema" / "database" / "migrations"
_ADD_TABLE = """
    op.create_table('later', sa.Column('id', sa.Integer, primary_key=True))
"""
_ADD_COLUMNS = """
    for table in sa.inspect(op.get_bind()).get_table_names():
        if table != 'rag_outbox_revision':
            op.add_column(table, sa.Column('later', sa.String(16)))
            op.create_index(f'ix_{table}_later', table, ['later'])
"""


def add_migration(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, columns: bool = False) -> None:
    """Let this process be a release with one more migration, `name`. It adds a table or, to every table, a column."""
    copied = copytree(MIGRATIONS, folder / name, ignore=ignore_patterns("__pycache__"))
    (copied / "versions" / f"{name}.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f"revision, down_revision = {name!r}, {revision.REVISIONS[-1]!r}\n"
        f"def upgrade():{_ADD_COLUMNS if columns else _ADD_TABLE}"
    )
    config = Config()
    config.set_main_option("script_location", str(copied))
    monkeypatch.setattr(migrate, "_config", lambda: config)
    monkeypatch.setattr(revision, "REVISIONS", (*revision.REVISIONS, name))


def create_tables_of(engine: Engine, found: str) -> None:
    """Fill an empty database with the tables of the revision `found`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, found)
