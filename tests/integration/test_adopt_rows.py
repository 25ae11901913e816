"""Rows of an old platform, read from SQLite and from MySQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from operations.adopt.errors import MappingError
from operations.adopt.mapping import ChunkColumns, Chunks, DocumentColumns, Documents
from operations.adopt.rows import OldRows, open_database, open_rows
from tests.support.servers import Servers, empty_database

pytestmark = pytest.mark.integration

DOCUMENTS = Documents(table="files", columns=DocumentColumns(doc_id="id", title="name"))


@pytest.fixture(params=["sqlite", "mysql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
        yield engine
        engine.dispose()
    else:
        servers: Servers = request.getfixturevalue("servers")
        with empty_database(make_url(servers.mysql_url)) as engine:
            yield engine


def fill(old: Engine, *statements: str) -> None:
    with old.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextmanager
def rows(old: Engine, wanted: Documents | Chunks) -> Iterator[OldRows]:
    url = old.url.render_as_string(hide_password=False)
    section = "documents" if isinstance(wanted, Documents) else "chunks"
    with open_database(url, "OLD") as engine, open_rows(section, wanted, engine, Path()) as opened:
        yield opened


def test_pages_hold_every_row_in_the_order_of_doc_id(old: Engine) -> None:
    fill(old, "CREATE TABLE files (id INTEGER, name VARCHAR(9))")
    fill(old, "INSERT INTO files VALUES (10, 'ten'), (9, 'nine'), (-1, 'minus'), (0, 'zero'), (11, 'eleven')")
    with rows(old, DOCUMENTS) as opened:
        assert opened.count() == 5
        first = opened.page(None, 2)
        second = opened.page(first[-1]["doc_id"], 2)
        third = opened.page(second[-1]["doc_id"], 2)
        assert [row["doc_id"] for row in (*first, *second, *third)] == [-1, 0, 9, 10, 11]
        assert opened.page(11, 2) == []


@pytest.mark.parametrize(("name", "reason"), [("'b'", "'a' is not"), ("NULL", "1 of 3 rows have none")])
def test_doc_id_that_is_double_or_missing_is_refused(name: str, reason: str, old: Engine) -> None:
    fill(old, "CREATE TABLE files (id VARCHAR(9), name VARCHAR(9))")
    fill(old, f"INSERT INTO files VALUES ('a', 'x'), ('{'a' if name != 'NULL' else 'c'}', 'y'), ({name}, 'z')")
    with rows(old, DOCUMENTS) as opened, pytest.raises(MappingError, match=reason):
        opened.count()


def test_chunks_keep_their_order_when_a_column_has_one_of_our_names(old: Engine) -> None:
    fill(old, "CREATE TABLE pieces (doc VARCHAR(9), `order` INTEGER, id INTEGER, content VARCHAR(9), body VARCHAR(9))")
    fill(old, "INSERT INTO pieces VALUES ('7', 1, 3, 'x', 'third'), ('7', 3, 1, 'y', 'first'), ('7', 2, 2, 'z', '2nd')")
    columns = ChunkColumns(doc_id="doc", order="id", id="order", vector_id="order", content="body")
    with rows(old, Chunks(table="pieces", columns=columns)) as opened:
        assert [row["content"] for row in opened.of([7])] == ["first", "2nd", "third"]
        assert opened.sizes([7, 8]) == {"7": (3, 13)}


def test_number_does_not_match_a_text_that_starts_with_it(old: Engine) -> None:
    fill(old, "CREATE TABLE pieces (doc VARCHAR(9), seq INTEGER, body VARCHAR(9))")
    fill(old, "INSERT INTO pieces VALUES ('7', 1, 'ours'), ('7b', 1, 'other')")
    columns = ChunkColumns(doc_id="doc", order="seq", vector_id="seq", content="body")
    with rows(old, Chunks(table="pieces", columns=columns)) as opened:
        assert [row["content"] for row in opened.of([7])] == ["ours"]


def test_query_cannot_write(old: Engine) -> None:
    fill(old, "CREATE TABLE files (id INTEGER, name VARCHAR(9))", "INSERT INTO files VALUES (1, 'a')")
    writes = Documents(query="DELETE FROM files", columns=DocumentColumns(doc_id="id", title="name"))
    with pytest.raises(MappingError, match=r"^\[documents\] query: old database: "), rows(old, writes):
        pass
    with rows(old, DOCUMENTS) as opened:
        assert opened.count() == 1
