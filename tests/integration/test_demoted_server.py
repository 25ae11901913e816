"""A MySQL server that was demoted and takes no writes: the same write runs again, on a new connection."""

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

import producer
from schema.database.connection import is_transient
from tests.support import written

pytestmark = pytest.mark.integration

WRITE = "INSERT INTO chunk_tombstones VALUES ('c', 'd', 1)"
CONNECTION = text("SELECT CONNECTION_ID()")


@pytest.mark.parametrize("code", [1290, 1792, 1836])
def test_refused_write_is_transient_and_closes_the_connection(mysql: Engine, code: int) -> None:
    with mysql.connect() as connection:
        first = connection.execute(CONNECTION).scalar_one()
        with pytest.raises(DBAPIError) as refused:
            connection.execute(text(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}"))
    assert is_transient(refused.value)
    with mysql.connect() as connection:
        assert connection.execute(CONNECTION).scalar_one() != first


def test_write_succeeds_once_another_connection_takes_it(mysql: Engine) -> None:
    with mysql.connect() as connection:
        connection.execute(text("SET SESSION TRANSACTION READ ONLY"))  # as a session on a replica; the pool keeps it
    attempts: list[int] = []

    def write(connection: Connection) -> None:
        attempts.append(connection.execute(CONNECTION).scalar_one())
        connection.execute(text(WRITE))

    producer.run(mysql, write)
    assert len(set(attempts)) == 2
    assert written.rows(mysql, "SELECT doc_id FROM chunk_tombstones") == [("d",)]


def test_other_errors_keep_the_connection(mysql: Engine) -> None:
    with mysql.connect() as connection:
        first = connection.execute(CONNECTION).scalar_one()
        with pytest.raises(DBAPIError) as refused:
            connection.execute(text("SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644"))
    assert not is_transient(refused.value)
    with mysql.connect() as connection:
        assert connection.execute(CONNECTION).scalar_one() == first
