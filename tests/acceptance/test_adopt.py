"""`rag-outbox adopt`: an existing platform moves into the system with its vectors, on both kinds of stores."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from producer import Writer
from schema.collection import alias_of
from schema.database.connection import connect, reading
from schema.object_store import s3
from tests.acceptance.conftest import Here
from tests.support import old_platform
from tests.support.commands import Folder
from tests.support.old_platform import BROKEN, COLLECTION, DOCUMENTS, chunks_of
from tests.support.servers import ROOT, MilvusServer, MinioServer, Servers, empty_database
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

ADOPTED = DOCUMENTS - len(BROKEN)
CHUNKS = sum(len(chunks_of(number, 1)) for number in range(1, DOCUMENTS + 1) if number not in BROKEN)
FILES = DOCUMENTS // 30 - 2  # 90 and 120 are broken
SIGNS_IN_QUERY = {"state = 'live'": "state LIKE 'li%' AND body <> ':x'"}  # no parameters


@dataclass(frozen=True)
class Adoption:
    """An initialised system next to an old platform, and the mapping file that brings one into the other."""

    folder: Folder
    engine: Engine  # of the system
    old: Engine
    milvus: Callable[[], Any]  # a context manager of a client of the system's collection
    alias: str
    dimension: int
    mapping: Path

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with reading(self.engine) as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def change(self, statement: str) -> None:
        with self.old.begin() as connection:
            connection.execute(text(statement))

    def adopt(self, *options: str, status: int = 1) -> dict[str, Any]:
        outcome = self.folder.run("adopt", "--mapping", str(self.mapping), *options, "--json")
        assert outcome.status == status, outcome
        return outcome.facts

    def stored(self, number: int) -> tuple[dict[str, bytes], tuple[str, str]]:
        """Every vector in Milvus by content; doc_id and content of the hit for a document's first old vector."""
        with self.milvus() as client:
            client.load_collection(self.alias)
            rows = client.query(
                self.alias, filter='chunk_id != ""', output_fields=["content", "vector"], consistency_level="Strong"
            )
            [[hit]] = client.search(
                self.alias,
                data=[chunks_of(number, self.dimension)[0].vector],
                anns_field="vector",
                limit=1,
                output_fields=["doc_id", "content"],
                consistency_level="Strong",
            )
        vectors = {row["content"]: np.asarray(row["vector"], "<f4").tobytes() for row in rows}
        return vectors, (hit["entity"]["doc_id"], hit["entity"]["content"])


@contextmanager
def embedded(prepared: Folder, path: Path) -> Iterator[Adoption]:
    """SQLite, Milvus Lite and folders; the old collection is in the system's own Milvus Lite."""
    folder = Folder.copied(prepared, path / "data")
    old = create_engine(f"sqlite:///{path / 'old.db'}")
    bucket = path / "old-store" / "kb-uploads"

    def put(key: str, content: bytes) -> None:
        (bucket / key).parent.mkdir(parents=True, exist_ok=True)
        (bucket / key).write_bytes(content)

    with folder.milvus() as client:
        old_platform.create(old, client, put, 256)
    mapping = old_platform.documented_mapping(
        uri=None,
        token_env=None,
        model="wordllama-l2_supercat-256",
        object_store=(path / "old-store").as_uri(),
        access_key_env=None,
        secret_key_env=None,
    )
    engine = connect(f"sqlite:///{folder.path / 'metadata.db'}")
    written = old_platform.write_mapping(path / "adopt.toml", mapping, SIGNS_IN_QUERY)
    yield Adoption(folder, engine, old, folder.milvus, "rag_vectors", 256, written)
    engine.dispose()
    old.dispose()


@contextmanager
def on_servers(path: Path, servers: Servers, milvus: MilvusServer, minio: MinioServer) -> Iterator[Adoption]:
    """MySQL, Milvus and an S3 server, each with a database or bucket for the old platform and one for the system."""
    with ExitStack() as stack:
        ours, old = (stack.enter_context(empty_database(make_url(servers.mysql_url))) for _ in range(2))
        our_vectors, old_vectors = (stack.enter_context(milvus.database()) for _ in range(2))
        bucket, old_bucket = (stack.enter_context(minio.bucket()) for _ in range(2))
        namespace = servers.names().namespace
        folder = Folder(
            path / "data",
            database_url=ours.url.render_as_string(hide_password=False),
            namespace=namespace,
            milvus_uri=f"{milvus.uri}/{our_vectors}",
            object_store=minio.url,
            object_store_access_key=minio.access_key,
            object_store_secret_key=minio.secret_key,
            object_store_bucket=bucket,
            embedding_model="test-model",
            vector_dimension="8",
            profile="embedded",  # no Kafka
        )
        folder.path.mkdir()
        assert folder.run("init").status == 0
        client = minio.client()
        store = s3.S3Store(client, old_bucket)
        store.ensure()

        def put(key: str, content: bytes) -> None:
            store.put(key, io.BytesIO(content), size_bytes=len(content), content_type="text/plain", sha256=None)

        old_client = stack.enter_context(milvus.client(old_vectors))
        old_platform.create(old, old_client, put, 8)
        mapping = old_platform.documented_mapping(
            uri=f"{milvus.uri}/{old_vectors}",
            token_env=None,
            model="test-model",
            object_store=minio.url,
            bucket=old_bucket,
        )
        written = old_platform.write_mapping(path / "adopt.toml", mapping, SIGNS_IN_QUERY)
        yield Adoption(folder, ours, old, lambda: milvus.client(our_vectors), alias_of(namespace), 8, written)


@pytest.fixture(params=["embedded", "servers"])
def adoption(
    request: pytest.FixtureRequest, prepared: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Adoption]:
    if request.param == "embedded":
        made = embedded(prepared, tmp_path)
    else:
        servers, milvus, minio = map(request.getfixturevalue, ("servers", "milvus_server", "minio_server"))
        monkeypatch.setenv("OLD_MINIO_ACCESS_KEY", minio.access_key)
        monkeypatch.setenv("OLD_MINIO_SECRET_KEY", minio.secret_key)
        made = on_servers(tmp_path, servers, milvus, minio)
    with made as adoption:
        monkeypatch.setenv("OLD_DATABASE_URL", adoption.old.url.render_as_string(hide_password=False))
        yield adoption


def test_platform_moves_with_its_vectors(adoption: Adoption, tmp_path: Path) -> None:
    report = tmp_path / "failed.jsonl"
    dry = adoption.adopt("--dry-run", "--report", str(report))
    counts: dict[str, Any] = {
        "documents": DOCUMENTS,
        "failed": len(BROKEN),
        "chunks": CHUNKS,
        "vectors": CHUNKS,
        "files": FILES,
    }
    counts |= {"interrupted": False, "retries": {}, "unchanged": 0, "skipped": 0}
    assert dry == counts | {"written": 0, "valid": ADOPTED, "dry_run": True}
    assert_report_names_broken(report)
    for table in ("documents", "outbox", "operation_logs"):
        assert adoption.rows(f"SELECT count(*) FROM {table}") == [(0,)], table

    done = adoption.adopt("--report", str(report))
    assert done == counts | {"written": ADOPTED, "valid": 0, "dry_run": False}
    assert_report_names_broken(report)

    assert adoption.folder.succeed("run", "--until-idle") == {"events": ADOPTED}
    vectors, hit = adoption.stored(7)
    assert vectors == {
        chunk.content: chunk.vector.tobytes()
        for number in range(1, DOCUMENTS + 1)
        if number not in BROKEN
        for chunk in chunks_of(number, adoption.dimension)
    }
    assert hit == ("7", "Piece 0 of file 7.")
    assert adoption.rows("SELECT title, source_type, business_tag, page_count FROM documents WHERE doc_id = '5'") == [
        ("File 5", "word", "hr", 5)
    ]
    assert adoption.rows("SELECT content, start_char FROM chunks WHERE doc_id = '7' ORDER BY chunk_index") == [
        (f"Piece {place} of file 7.", 10 * place) for place in range(5)
    ]
    assert len(adoption.rows("SELECT * FROM document_files")) == FILES

    again = adoption.adopt()
    assert (again["written"], again["unchanged"], again["vectors"]) == (0, ADOPTED, 0)


def test_killed_run_is_continued_and_nothing_doubled(adoption: Adoption) -> None:
    first, same, written = (die(adoption, *moment) for moment in (("in", 2), ("before", 1), ("after", 2)))
    assert 0 < first == same < written < ADOPTED

    done = adoption.adopt()

    assert (done["written"], done["unchanged"], done["failed"]) == (ADOPTED - written, written, len(BROKEN))
    assert adoption.rows("SELECT count(*), max(version) FROM documents") == [(ADOPTED, 1)]
    assert adoption.rows("SELECT count(*) FROM outbox") == [(ADOPTED,)]
    assert adoption.rows("SELECT count(*) FROM chunks") == [(CHUNKS,)]


def assert_report_names_broken(report: Path) -> None:
    reasons = {int(line["doc_id"]): line["reason"] for line in map(json.loads, report.read_text().splitlines())}
    assert reasons.keys() == BROKEN.keys()
    assert [number for number, reason in BROKEN.items() if reason not in reasons[number]] == [], reasons


def die(adoption: Adoption, moment: str, batch: int) -> int:
    """Run the command, which kills itself at a moment of a batch. Returns the number of documents in the system."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dying_adopt", moment, str(batch), "--mapping", str(adoption.mapping)],
        env=adoption.folder.environment() | {"PYTHONPATH": str(ROOT)},
        cwd=adoption.folder.path.parent,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [(count, version)] = adoption.rows("SELECT count(*), max(version) FROM documents")
    assert version == 1
    return int(count)


@pytest.fixture
def local(prepared: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adoption]:
    with embedded(prepared, tmp_path) as adoption:
        monkeypatch.setenv("OLD_DATABASE_URL", adoption.old.url.render_as_string(hide_password=False))
        yield adoption


def test_second_run_writes_only_what_changed(local: Adoption) -> None:
    assert local.adopt("--limit", "10", status=0)["written"] == 10
    local.folder.succeed("run", "--until-idle")
    local.change("UPDATE kb_file SET name = 'Renamed' WHERE id = 3")
    local.change("UPDATE kb_piece SET body = 'Other words.' WHERE file_id = 4 AND seq = 0")

    done = local.adopt("--limit", "10", status=0)

    assert (done["written"], done["unchanged"], done["vectors"]) == (2, 8, 1)
    assert local.rows("SELECT doc_id FROM documents WHERE version = 2 ORDER BY doc_id") == [("3",), ("4",)]


def test_run_after_the_switch_over_overwrites_nothing(local: Adoption, tmp_path: Path) -> None:
    """Services changed 3 and 4, and deleted 5; 6 was sent again; in the old platform, 4 and 7 changed."""
    assert local.adopt("--limit", "10", status=0)["written"] == 10
    local.folder.succeed("run", "--until-idle")
    with local.engine.begin() as connection:
        writer = Writer("wordllama-l2_supercat-256")
        writer.relabel(connection, "3", title="Ours")
        writer.relabel(connection, "4", title="Ours")
        writer.delete(connection, "5")
        writer.resync(connection, "6")
    local.change("UPDATE kb_file SET name = 'Theirs' WHERE id IN (4, 7)")
    report = tmp_path / "skipped.jsonl"
    titles = "SELECT doc_id, title, deleted_at IS NULL FROM documents WHERE doc_id IN ('3', '4', '5', '7') ORDER BY 1"
    kept = [("3", "Ours", 1), ("4", "Ours", 1), ("5", "File 5", 0)]

    dry = local.adopt("--limit", "10", "--dry-run")
    done = local.adopt("--limit", "10", "--report", str(report))

    assert (dry["skipped"], dry["valid"]) == (3, 7)
    assert (done["skipped"], done["written"], done["unchanged"], done["failed"]) == (3, 1, 6, 0)
    assert local.rows(titles) == [*kept, ("7", "Theirs", 1)]
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == ["3", "4", "5"]
    assert {line["reason"] for line in lines} == {
        "changed since it was adopted; --overwrite replaces it by its old state"
    }

    assert local.adopt("--limit", "10", "--overwrite", status=0)["written"] == 3
    assert local.rows(titles) == [("3", "File 3", 1), ("4", "Theirs", 1), ("5", "File 5", 1), ("7", "Theirs", 1)]
    assert local.adopt("--limit", "10", status=0)["unchanged"] == 10


def test_ctrl_c_ends_after_the_batch_and_says_what_was_done(local: Adoption, tmp_path: Path) -> None:
    report = tmp_path / "failed.jsonl"
    with closing(sqlite3.connect(local.folder.path / "metadata.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # the first batch waits
        command = ("adopt", "--mapping", str(local.mapping), "--report", str(report), "--json")
        with local.folder.start(*command) as running:
            wait_for(report.exists, "the command to be at work")
            os.kill(running.pid, signal.SIGINT)
            writer.execute("ROLLBACK")
            outcome = running.ended()

    assert outcome.status == 130
    assert outcome.facts["interrupted"] is True
    assert f"interrupted after {outcome.facts['documents']} of {DOCUMENTS} documents; run it again" in outcome.err
    written = outcome.facts["written"]
    assert written < ADOPTED
    assert local.rows("SELECT count(*) FROM documents") == [(written,)]
    assert local.adopt()["written"] == ADOPTED - written


def test_two_concurrent_runs_write_every_document_once(local: Adoption) -> None:
    command = ("adopt", "--mapping", str(local.mapping), "--json")
    with local.folder.start(*command) as first, local.folder.start(*command) as second:
        outcomes = [first.ended(), second.ended()]

    assert [outcome.status for outcome in outcomes] == [1, 1]
    assert sum(outcome.facts["written"] for outcome in outcomes) == ADOPTED
    assert local.rows("SELECT count(*), max(version) FROM documents") == [(ADOPTED, 1)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {'title = "name"': 'title = "nam"'},
            "[documents.columns] title: there is no column 'nam'; did you mean name?",
        ),
        ({'table = "kb_file"': 'table = "kb_fil"'}, "[documents] table: old database: no such table: kb_fil"),
        ({"kb_vectors": "kb_vector"}, "there is no collection 'kb_vector'; did you mean kb_vectors?"),
        ({'vector = "embedding"': 'vector = "embeding"'}, "has no field 'embeding'; did you mean embedding?"),
        ({'vector = "embedding"': 'vector = "note"'}, "the field 'note' must be FLOAT_VECTOR, is VARCHAR"),
        ({'model = "wordllama': 'model = "other'}, "[milvus] model: the system's model is 'wordllama-"),
        ({'vector = "embedding"': 'vector = "embedding"\nsparse = "note"'}, "must be SPARSE_FLOAT_VECTOR, is VARCHAR"),
        ({'bucket = "kb-uploads"': 'bucket = "kb-upload"'}, "[files] bucket: there is no folder"),
        ({'url_env = "OLD_D': 'url_env = "OLDER_D'}, "the environment variable OLDER_DATABASE_URL is not set"),
        ({'doc_id = "id"': 'doc_id = "kind"'}, "doc_id: must be unique as the database compares it; '"),
    ],
)
def test_mapping_that_does_not_fit_is_named_and_nothing_written(
    changes: dict[str, str], reason: str, old: Adoption, here: Here
) -> None:
    mapping = old_platform.write_mapping(old.mapping.with_name("other.toml"), old.mapping.read_text(), changes)

    outcome = here(old.folder, "adopt", "--mapping", str(mapping), "--json")

    assert outcome.status == 2
    assert reason in outcome.facts["error"]
    assert old.rows("SELECT count(*) FROM documents") == [(0,)]


@pytest.fixture(scope="module")
def shared_old(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adoption]:
    with embedded(prepared, tmp_path_factory.mktemp("old")) as adoption:
        yield adoption


@pytest.fixture
def old(shared_old: Adoption, monkeypatch: pytest.MonkeyPatch) -> Adoption:
    """A platform that no test of the module changes."""
    monkeypatch.setenv("OLD_DATABASE_URL", shared_old.old.url.render_as_string(hide_password=False))
    return shared_old


def test_collection_of_another_dimension_is_refused(old: Adoption, here: Here) -> None:
    with old.folder.milvus() as client:
        old_platform.fill(client, "narrow", 8, chunks_of(1, 8))

    outcome = here(old.folder, "adopt", "--mapping", str(old.mapping), "--milvus", "narrow", "--json")

    assert outcome.status == 2
    assert "[milvus] vector: the field 'embedding' has 8 dimensions, the system 256" in outcome.facts["error"]


def test_too_many_failures_stop_the_command(old: Adoption, here: Here) -> None:
    outcome = here(old.folder, "adopt", "--mapping", str(old.mapping), "--dry-run", "--max-failures", "1")

    assert outcome.status == 1
    assert "rag-outbox: stopped: more than 1 documents failed (--max-failures)\n" in outcome.err
    assert "failed: 120: chunks must be" in outcome.err


def test_json_lines_with_texts_from_milvus_are_adopted(local: Adoption, tmp_path: Path) -> None:
    documents = [{"key": number, "name": f"File {number}"} for number in (10, 9, 2)]
    chunks = [
        {"of": str(number), "n": place, "vector": chunk.vec_id, "up": None if place == 0 else 100 * number}
        for number in (9, 10, 2)
        for place, chunk in enumerate(chunks_of(number, 256))
    ]
    for name, rows in (("documents", documents), ("chunks", chunks)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    local.mapping.write_text(
        f"""
        [documents]
        jsonl = "documents.jsonl"
        default_source_type = "text"
        columns = {{ doc_id = "key", title = "name" }}
        [chunks]
        jsonl = "chunks.jsonl"
        columns = {{ doc_id = "of", order = "n", vector_id = "vector", parent = "up" }}
        [milvus]
        collection = "{COLLECTION}"
        vector = "embedding"
        content = "note"
        model = "wordllama-l2_supercat-256"
        """
    )

    assert local.adopt(status=0)["written"] == 3

    local.folder.succeed("run", "--until-idle")
    local.folder.assert_in_step()
    assert local.stored(9)[1] == ("9", "Piece 0 of file 9.")
    joined = "SELECT p.content FROM chunks c JOIN chunks p ON p.chunk_id = c.parent_chunk_id WHERE c.doc_id = '9'"
    assert local.rows(joined) == [("Piece 0 of file 9.",)] * (len(chunks_of(9, 1)) - 1)
