"""`rag-outbox history` in the embedded profile, and in the services profile."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from producer import Writer
from schema.kafka.names import Names
from tests.acceptance.conftest import Here
from tests.acceptance.test_command import lines
from tests.support import kafka
from tests.support.commands import Folder
from tests.support.pipeline import MODEL, document, set_namespace
from tests.support.servers import Servers
from tests.support.services import services_folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


def test_new_history_refills_every_document_of_a_folder(folder: Folder, here: Here) -> None:
    cats = {"doc_id": "cats", "title": "Cats", "chunks": [{"content": "The cat sleeps on a warm mat all day."}]}
    folder.succeed("write", "-", stdin=lines(cats))
    folder.succeed("run", "--until-idle")
    [first] = folder.succeed("history", "list")["histories"]
    assert (first["number"], first["reason"], first["server"]) == (1, "init", "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", first["checked"])

    refused = folder.run("history", "new", stdin=b"n\n")
    assert refused.status == 1
    started = folder.succeed("history", "new", "--yes", "--reason", "a restore of Sunday")
    _, second = folder.succeed("history", "list")["histories"]
    assert (second["id"], second["reason"], second["checked"]) == (started["history_id"], "a restore of Sunday", None)
    shown = folder.run("history", "list")
    assert "a restore of Sunday" in shown.out
    assert "not yet" in shown.out

    folder.succeed("run", "--until-idle")
    assert folder.succeed("history", "list")["histories"][1]["checked"] is not None
    assert folder.sql("SELECT marks > 1, state FROM sink_states WHERE sink = 'milvus'") == [(1, "applied")]
    folder.assert_in_step()


def test_new_history_is_refused_while_run_works(folder: Folder, here: Here) -> None:
    """It looks for a new history only when it starts."""
    with folder.start("run"):
        holder = folder.path / "run.json"
        wait_for(lambda: holder.exists() and holder.read_text(), "run to hold the folder")
        refused = here(folder, "history", "new", "--yes", "--json")
    assert refused.status == 1
    assert refused.facts["error"].startswith(f"rag-outbox run holds {folder.path} since ")
    assert len(folder.succeed("history", "list")["histories"]) == 1


def test_check_without_kafka_says_what_to_do(folder: Folder, here: Here) -> None:
    outcome = folder.run("history", "check", "--json")
    assert outcome.status == 2
    assert "without Kafka there is no topic to check" in outcome.facts["error"]


def test_check_ends_with_3_when_it_found_documents(
    mysql: Engine, servers: Servers, names: Names, tmp_path: Path, here: Here
) -> None:
    with mysql.begin() as connection:
        Writer(MODEL).upsert_many(connection, [document("kept", "one"), document("lost", "one")])
    with kafka.relaying(mysql, servers, names):
        kafka.wait_until_empty(mysql)
    wait_for(lambda: len(kafka.topic(servers, names.documents_topic)) == 2, "both events in the topic")
    with mysql.begin() as connection:
        for table in ("chunks", "sink_states", "documents"):
            connection.execute(text(f"DELETE FROM {table} WHERE doc_id = 'lost'"))
    set_namespace(mysql, names.namespace)
    folder = services_folder(tmp_path, mysql, servers, names.namespace)
    found = here(folder, "history", "check", "--json")
    assert (found.status, found.err) == (3, "")
    assert found.facts == {"events": 2, "unreadable": 0, "lost_events": 1, "documents": ["lost"], "unmarked": []}
    again = here(folder, "history", "check", "--since", "2026-01-01")
    assert (again.status, again.out) == (0, "Read 2 events. None belongs to a lost history.\n")
