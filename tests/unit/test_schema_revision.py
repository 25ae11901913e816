"""Which revisions of the tables a release works with."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from schema.database import migrate, revision
from schema.database.connection import connect, reading
from tests.support.migrations import MIGRATIONS, add_migration
from tests.unit.test_schema_migrations import TABLES, definitions, require_compatible, tables

pytestmark = pytest.mark.unit

HEAD = revision.number(revision.REVISIONS[-1])
ADDITIVE = f"9998_from_{HEAD}"
NEEDS_NEWER_CODE = "9998_from_9998"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'metadata.db'}")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("name", revision.REVISIONS)
def test_migration_leaves_the_release_before_it_working(name: str) -> None:
    """A process of the previous release runs until it is replaced, after `init` of the next one."""
    before = revision.REVISIONS[max(0, revision.REVISIONS.index(name) - 1)]
    assert re.fullmatch(r"\d{4}(_from_\d{4})?", name)
    assert len(name) <= 32
    assert revision.oldest_code(name) <= revision.number(before)
    assert len(list((MIGRATIONS / "versions").glob(f"{revision.number(name)}_*.py"))) == 1


def test_this_release_works_with_the_tables_before_its_own() -> None:
    """A process of this release may start before `init` has upgraded the tables."""
    numbers = [revision.number(one) for one in revision.REVISIONS]
    assert numbers == sorted(set(numbers))
    assert revision.OLDEST in numbers
    assert numbers[-2:][0] >= revision.OLDEST


def test_check_is_one_statement(engine: Engine) -> None:
    migrate.upgrade(engine)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    require_compatible(engine)
    assert statements == ["SELECT version_num FROM rag_outbox_revision"]


def test_old_release_accepts_and_keeps_later_compatible_tables(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        add_migration(tmp_path, newer, ADDITIVE)
        migrate.upgrade(engine)
    before = definitions(engine)
    require_compatible(engine)
    migrate.upgrade(engine)
    assert revision.current(engine) == ADDITIVE
    assert definitions(engine) == before


def test_old_release_refuses_tables_that_need_newer_code(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        add_migration(tmp_path, newer, NEEDS_NEWER_CODE)
        migrate.upgrade(engine)
    before = definitions(engine)
    for refused in (require_compatible, migrate.upgrade):
        with pytest.raises(revision.WrongRevision, match=f"at revision 9998, .* 9998 or later; this one has {HEAD}"):
            refused(engine)
    assert revision.current(engine) == NEEDS_NEWER_CODE
    assert definitions(engine) == before


def test_skipped_release_refuses_tables_that_only_its_successor_knows(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9999 drops what only code before 9998 used: 9998 works with it, and this release does not."""
    with monkeypatch.context() as newest:
        add_migration(tmp_path, newest, "9999_from_9998")
        migrate.upgrade(engine)
    with pytest.raises(revision.WrongRevision, match="at revision 9999, which needs a release of revision 9998"):
        require_compatible(engine)
    monkeypatch.setattr(revision, "REVISIONS", (*revision.REVISIONS, ADDITIVE))
    require_compatible(engine)


def test_new_release_runs_before_the_upgrade_if_it_can(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(engine)
    add_migration(tmp_path, monkeypatch, ADDITIVE)
    require_compatible(engine)
    monkeypatch.setattr(revision, "OLDEST", "9998")
    with pytest.raises(revision.WrongRevision, match=f"at revision {HEAD}, .* 9998 or later: run rag-outbox init"):
        require_compatible(engine)
    migrate.upgrade(engine)
    require_compatible(engine)
    assert revision.current(engine) == ADDITIVE
    assert tables(engine) == TABLES | {"later", revision.VERSION_TABLE}


def test_release_refuses_tables_that_are_too_old(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(engine)
    monkeypatch.setattr(revision, "REVISIONS", ("9998_from_9997", "9999_from_9998"))
    monkeypatch.setattr(revision, "OLDEST", "9998")
    assert revision.needs_upgrade(HEAD)
    with pytest.raises(revision.WrongRevision, match=f"at revision {HEAD}, .* 9998 or later: run rag-outbox init"):
        require_compatible(engine)


def test_release_that_waited_for_a_newer_upgrade_changes_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        add_migration(tmp_path, newer, ADDITIVE)
        migrate.upgrade(engine)
    monkeypatch.setattr(revision, "current", lambda _engine: None)  # what it read before it got the lock
    migrate.upgrade(engine)
    with reading(engine) as connection:
        assert revision.of(connection) == ADDITIVE
