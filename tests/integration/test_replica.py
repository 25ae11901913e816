"""Invariant 2 on a real replica: wherever it stopped, a reader distinguishes complete documents from partial ones."""

import pytest
from sqlalchemy import Connection, Engine, text

from producer import Writer
from schema.database.connection import reading
from tests.support import plain_sql, written
from tests.support.pipeline import MODEL, document
from tests.support.replica import Replica
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]  # seconds: a new replica must catch up

Seen = tuple[int, bool, list[str]]  # version, whether complete, the chunks in order


def seen(engine: Engine) -> Seen | None:
    """What a reader of the document sees with the query of docs/contract.md."""
    with reading(engine) as connection:
        version = whole(connection)
    return None if version is None else (*version, written.chunks(engine, "d"))


def whole(connection: Connection) -> tuple[int, bool] | None:
    connection.exec_driver_sql("SET @doc_id = 'd'")
    row = connection.exec_driver_sql(plain_sql.WHOLE).one_or_none()
    return None if row is None else (row.version, bool(row.whole))


def test_invariant_2_replica_shows_complete_documents_wherever_it_stopped(replica: Replica) -> None:
    writer = Writer(MODEL)
    for contents in (["one", "two", "three"], ["one", "zwei", "three", "four"], ["three"], [], ["three", "again"]):
        with replica.transaction() as connection:
            if contents:
                writer.upsert(connection, document("d", *contents))
            else:
                writer.delete(connection, "d")
    newest = (5, True, ["three", "again"])
    assert seen(replica.primary) == newest
    assert seen(replica.engine) is None, "the replica lags"

    positions: list[Seen | None] = []
    for number in range(1, 6):
        replica.apply_until(number)
        positions.append(seen(replica.engine))
    assert positions == [
        (1, True, ["one", "two", "three"]),
        (2, True, ["one", "zwei", "three", "four"]),
        (3, True, ["three"]),
        (4, True, []),
        newest,
    ]


def test_invariant_2_replica_within_a_transaction_shows_the_previous_version(replica: Replica) -> None:
    """A reader's lock on a chunk that the new version removes stops the replica after it changed the document's row."""
    writer = Writer(MODEL)
    for contents in (["one", "two", "three"], ["one"]):
        with replica.transaction() as connection:
            writer.upsert(connection, document("d", *contents))
    replica.apply_until(1)
    dirty = replica.engine.execution_options(isolation_level="READ UNCOMMITTED")

    def half() -> tuple[int, bool] | None:
        """The content of the tables, committed or not."""
        with dirty.connect() as connection:
            return whole(connection)

    with replica.engine.connect() as holder:
        holder.execute(text("SELECT chunk_id FROM chunks WHERE content <> 'one' FOR SHARE")).all()
        replica.start_until(2)
        wait_for(lambda: half() == (2, False), "a half-applied transaction")
        assert replica.applies()
        assert seen(replica.engine) == (1, True, ["one", "two", "three"])
    wait_for(lambda: not replica.applies(), "the end of the transaction")
    assert seen(replica.engine) == (2, True, ["one"])


DOCUMENT = (
    "INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count)"
    " VALUES ('d', 1, 'h', 'D', 'text', 2)"
)


def new_version(version: int, chunk_count: int) -> str:
    return f"UPDATE documents SET version = {version}, chunk_count = {chunk_count}"


def chunk(content: str, position: int, version: int) -> str:
    return f"""INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash,
        char_count, vector_version, row_version)
        VALUES ('{content}', 'd', {position}, 'text', 'text', '{content}', '', 3, {version}, {version})"""


ROW_BY_ROW: list[tuple[str, Seen]] = [
    (DOCUMENT, (1, False, [])),
    (chunk("one", 0, 1), (1, False, ["one"])),
    (chunk("two", 1, 1), (1, True, ["one", "two"])),
    (new_version(2, 1), (2, False, ["one", "two"])),
    ("DELETE FROM chunks WHERE content = 'two'", (2, True, ["one"])),
    # the document's row last: the right number of chunks, but of a later version
    ("DELETE FROM chunks WHERE content = 'one'", (2, False, [])),
    (chunk("uno", 0, 3), (2, False, ["uno"])),
    (new_version(3, 1), (3, True, ["uno"])),
    # the document's row first: the right number of chunks of the previous version, which only a transaction prevents
    (new_version(4, 1), (4, True, ["uno"])),
    ("UPDATE chunks SET content = 'eins', row_version = 4", (4, True, ["eins"])),
]


def test_writer_that_commits_row_by_row_shows_partial_documents(replica: Replica) -> None:
    for statement, _ in ROW_BY_ROW:
        with replica.transaction() as connection:
            connection.exec_driver_sql(statement)

    positions = []
    for number in range(1, len(ROW_BY_ROW) + 1):
        replica.apply_until(number)
        positions.append(seen(replica.engine))
    assert positions == [expected for _, expected in ROW_BY_ROW]
