"""The examples, run with real stores: what a newcomer copies works."""

import argparse
import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, make_url, text

from examples.async_service.service import create_app as create_async_app
from examples.fastapi_service.service import create_app
from examples.plain_sql import service as plain_sql_service
from schema.database.connection import connect, reading
from schema.kafka.names import Names
from tests.support import kafka, plain_sql
from tests.support.commands import Folder
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, vector
from tests.support.servers import ROOT, Servers, empty_database
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

PLAIN_SQL = ROOT / "examples" / "plain_sql"


@pytest.fixture(params=["sqlite", "mysql"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A system of the embedded profile, initialised, whose `database_url` is on SQLite or on MySQL."""
    data = tmp_path / "data"
    with ExitStack() as stack:
        url = f"sqlite:///{data}/metadata.db"
        if request.param == "mysql":
            servers: Servers = request.getfixturevalue("servers")
            engine = stack.enter_context(empty_database(make_url(servers.mysql_url)))
            url = engine.url.render_as_string(hide_password=False)
        else:
            data.mkdir()
        folder = Folder(data, profile="embedded", database_url=url)
        folder.succeed("init")
        yield folder


@pytest.fixture
def client(folder: Folder) -> Iterator[TestClient]:
    with folder.start("run"), TestClient(create_app(folder.settings["database_url"])) as client:
        yield client


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """Of the pipeline: on MySQL."""
    return mysql


def stored(folder: Folder) -> list[tuple[object, ...]]:
    """Documents by id with their version, and the author in the service's own table."""
    statement = (
        "SELECT d.doc_id, d.version, a.author FROM documents d LEFT JOIN articles a ON a.article_id = d.doc_id "
        "ORDER BY d.doc_id"
    )
    engine = connect(folder.settings["database_url"])
    with reading(engine) as connection:
        rows = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return rows


def found(folder: Folder, question: str) -> list[str]:
    return [hit["content"] for hit in folder.succeed("search", question, "--limit", "1")["hits"]]


def test_fastapi_service_answers_when_the_article_can_be_searched(folder: Folder, client: TestClient) -> None:
    leave = {"title": "Leave", "author": "HR", "text": "Everybody has 30 days off.\n\nTell your team early."}
    answer = client.put("/articles/leave", params={"wait_seconds": 60}, json=leave)
    assert (answer.status_code, answer.json()) == (200, {"version": 1, "changed": True, "searchable": True})
    assert stored(folder) == [("leave", 1, "HR")]
    assert found(folder, "how many days off") == ["Everybody has 30 days off."]

    leave["text"] = "Everybody has 31 days off.\n\nTell your team early."
    answer = client.put("/articles/leave", params={"wait_seconds": 60}, json=leave)
    assert (answer.status_code, answer.json()) == (200, {"version": 2, "changed": True, "searchable": True})
    assert found(folder, "how many days off") == ["Everybody has 31 days off."]

    assert client.delete("/articles/leave").status_code == 204
    assert client.delete("/articles/leave").status_code == 404
    assert stored(folder) == [("leave", 3, None)]  # the document's row stays as a tombstone


def test_fastapi_service_commits_row_and_document_together_or_not_at_all(folder: Folder) -> None:
    """Without a relay: what the answers promise is in the database alone."""
    with TestClient(create_app(folder.settings["database_url"])) as client:
        taken = {"title": "Taken", "author": "HR", "text": "One."}
        assert client.put("/articles/first", json=taken).status_code == 202
        assert client.put("/articles/second", json=taken).status_code == 409
        refused = {"title": "Long", "author": "HR", "text": "x" * 65_536}
        assert client.put("/articles/third", json=refused).status_code == 422
        waited = client.put("/articles/first", params={"wait_seconds": 0.1}, json=taken | {"text": "Two."})
        assert (waited.status_code, waited.json()["searchable"]) == (202, False)
    assert stored(folder) == [("first", 2, "HR")]


def test_async_service_answers_when_every_store_holds_the_note(folder: Folder) -> None:
    url = make_url(folder.settings["database_url"])
    driver = "sqlite+aiosqlite" if url.get_backend_name() == "sqlite" else "mysql+asyncmy"
    own = url.set(drivername=driver, query={}).render_as_string(hide_password=False)
    leave = {"author": "HR", "text": "Everybody has 30 days off."}
    with folder.start("run"), TestClient(create_async_app(own)) as client:
        answer = client.put("/notes/leave", params={"wait_seconds": 60}, json=leave)
        assert (answer.status_code, answer.json()) == (200, {"version": 1, "changed": True, "held": True})
        assert found(folder, "how many days off") == ["Everybody has 30 days off."]
        refused = {"author": "HR", "text": "x" * 65_536}
        assert client.put("/notes/long", json=refused).status_code == 422
        assert client.put("/notes/leave", json=leave).json() == {"version": 1, "changed": False, "held": False}
    engine = connect(folder.settings["database_url"])
    with reading(engine) as connection:
        assert connection.execute(text("SELECT note_id, author FROM notes")).all() == [("leave", "HR")]
    engine.dispose()


def run_plain_sql(engine: Engine, *arguments: str) -> str:
    url = engine.url
    host, port, user, database = (str(part) for part in (url.host, url.port or 3306, url.username, url.database))
    command = [sys.executable, str(PLAIN_SQL / "service.py")]
    environment = os.environ | {"MYSQL_PWD": url.password or ""}
    command += ["--host", host, "--port", port, "--user", user, "--database", database, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_plain_sql_service_reaches_both_stores(
    servers: Servers, pipeline: Pipeline, names: Names, tmp_path: Path
) -> None:
    def write(*contents: str) -> str:
        chunks = [{"content": content, "vector": vector(content)} for content in contents]
        document = {"doc_id": "handbook", "title": "Handbook", "source_type": "text", "chunks": chunks}
        path = tmp_path / "documents.jsonl"
        path.write_text(json.dumps(document) + "\n")
        return run_plain_sql(pipeline.engine, "write", str(path))

    def in_milvus() -> list[str]:
        completed = "SELECT doc_id FROM documents WHERE status = 'completed'"
        wait_for(lambda: pipeline.sql(completed), "the document to be completed")
        kafka.wait_until_empty(pipeline.engine)
        pipeline.assert_in_step()
        return sorted(row["content"] for row in pipeline.milvus_rows().values())

    with ExitStack() as stack:
        stack.enter_context(kafka.relaying(pipeline.engine, servers, names))
        for sink in (pipeline.milvus_sink, pipeline.minio_sink):
            stack.enter_context(kafka.consuming(pipeline.engine, sink, servers, names))
        assert write("One transaction writes.", "The relay publishes.") == "wrote handbook\n"
        assert in_milvus() == ["One transaction writes.", "The relay publishes."]
        write("Two sinks apply.", "One transaction writes.")
        assert in_milvus() == ["One transaction writes.", "Two sinks apply."]
        assert run_plain_sql(pipeline.engine, "delete", "handbook") == "deleted handbook\n"
        assert in_milvus() == []


def test_plain_sql_service_writes_on_through_a_failover(pipeline: Pipeline) -> None:
    """The server changes after the service has connected."""
    url = pipeline.engine.url
    options = argparse.Namespace(host=url.host, port=url.port or 3306, user=url.username, database=url.database)
    chunks = [{"content": "One.", "vector": vector("One.")}]
    document = {"doc_id": "handbook", "title": "Handbook", "source_type": "text", "chunks": chunks}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MYSQL_PWD", url.password or "")
        connection = plain_sql_service.connect(options)
    with closing(connection):
        plain_sql_service.write(connection, document, MODEL, DIMENSION, "test")
        pipeline.execute("UPDATE system_identity SET server_uuid = 'the old primary'")
        plain_sql_service.write(connection, document, MODEL, DIMENSION, "test")
        pipeline.execute("UPDATE system_identity SET server_uuid = 'the old primary'")
        plain_sql_service.delete(connection, "handbook", "test")
    assert pipeline.sql("SELECT version FROM documents") == [(3,)]
    assert pipeline.sql("SELECT COUNT(*) FROM histories") == [(3,)]


def test_plain_sql_scripts_are_the_blocks_of_the_contract() -> None:
    assert (PLAIN_SQL / "write.sql").read_text() == f"{plain_sql.UPSERT}\n{plain_sql.EVENT}"
    assert (PLAIN_SQL / "delete.sql").read_text() == plain_sql.DELETE
    assert (PLAIN_SQL / "another_server.sql").read_text() == plain_sql.ANOTHER_SERVER


def test_plain_sql_service_imports_nothing_of_ours() -> None:
    tree = ast.parse((PLAIN_SQL / "service.py").read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "pymysql"}
