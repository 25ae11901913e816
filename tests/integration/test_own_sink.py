"""The example of a sink of another package: its contract, its entry point, and the commands that know it."""

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from consumers.applier import Applier
from consumers.refill import Refill
from consumers.sinks import GROUP, PluginMarks, load_factory
from examples.own_sink.own_sink import FullTextSink
from tests.contracts.sink import SinkContract
from tests.support.commands import COMMAND, Folder
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, document, vector
from tests.support.servers import ROOT

pytestmark = pytest.mark.integration

EXAMPLE = ROOT / "examples" / "own_sink"
ROW = "INSERT INTO sinks (name, required, takes_vectors, takes_files) VALUES ('fulltext', TRUE, TRUE, FALSE)"
STATES = (
    "INSERT INTO sink_states (doc_id, sink, desired_version, state) "
    "SELECT doc_id, 'fulltext', version, 'absent' FROM documents"
)


class FullTextStore:
    shows_chunks = True
    shows_files = False

    def __init__(self, path: Path) -> None:
        self.sink = FullTextSink(path)
        self._path = path

    def read(self, doc_id: str) -> dict[str, str]:
        with closing(sqlite3.connect(self._path)) as database:
            rows = database.execute("SELECT chunk_id, content FROM chunks WHERE doc_id = ?", [doc_id]).fetchall()
        assert len(dict(rows)) == len(rows), "a chunk is held twice"
        return dict(rows)

    def lose(self) -> None:
        self._path.unlink()


class TestContract(SinkContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FullTextStore:
        return FullTextStore(tmp_path / "fulltext.db")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the metadata of a distribution that has the example's entry point."""
    metadata = tmp_path / "site" / "own_sink-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-sink\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nfulltext = own_sink:make\n")
    return metadata.parent


@pytest.fixture
def fulltext(pipeline: Pipeline, tmp_path: Path) -> FullTextSink:
    pipeline.execute(ROW)
    sink = FullTextSink(tmp_path / "fulltext.db")
    sink.create()
    return sink


def run(folder: Folder, installed: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, in which the example is installed."""
    environment = folder.environment() | {"PYTHONPATH": os.pathsep.join(map(str, (installed, EXAMPLE, ROOT)))}
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def sinks(folder: Folder) -> dict[str, tuple[bool, str, int, int, int, int]]:
    listed = folder.succeed("sinks", "list")["sinks"]
    names = ("required", "state", "applied", "pending", "absent", "failed")
    return {one["name"]: tuple(one[name] for name in names) for one in listed}


def test_installed_sink_is_refilled_and_kept_up_to_date(tmp_path: Path, installed: Path) -> None:
    folder = Folder(tmp_path / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")

    def write(doc_id: str, *contents: str) -> None:
        chunks = [{"content": content, "vector": vector(content)} for content in contents]
        line = {"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks}
        folder.succeed("write", "-", stdin=json.dumps(line).encode())

    write("old", "The cat sleeps.", "Taxes are due.")
    folder.succeed("run", "--until-idle")
    with closing(sqlite3.connect(folder.path / "metadata.db")) as database:
        for statement in (ROW, STATES):
            database.execute(statement)
        database.commit()
    assert sinks(folder) == {
        "fulltext": (True, "active", 0, 0, 1, 0),
        "milvus": (True, "active", 1, 0, 0, 0),
        "minio": (True, "active", 1, 0, 0, 0),
    }
    missing = folder.run("run", "--until-idle")
    assert (missing.status, missing.err) == (
        1,
        f"rag-outbox: no installed package has an entry point 'fulltext' in the group {GROUP}\n",
    )
    assert "run rag-outbox init" in run(folder, installed, "run", "--until-idle", status=1).stderr
    run(folder, installed, "init")
    write("new", "The dog sleeps.")
    run(folder, installed, "run", "--until-idle")
    fulltext = FullTextSink(folder.path / "fulltext.db")
    assert (fulltext.search("taxes"), set(fulltext.search("sleeps"))) == (["old"], {"old", "new"})
    folder.succeed("delete", "old")
    write("new", "The dog barks.")
    run(folder, installed, "run", "--until-idle")
    assert (fulltext.search("taxes"), fulltext.search("sleeps"), fulltext.search("barks")) == ([], [], ["new"])
    assert sinks(folder)["fulltext"] == (True, "active", 2, 0, 0, 0)
    status = folder.succeed("status")
    assert status["documents"] == {"completed": 1, "deleted": 1}
    assert set(status["sinks"]) == {"fulltext", "milvus", "minio"}
    shown = folder.run("sinks", "list").out
    assert [line.split() for line in shown.splitlines()] == [
        ["sink", "required", "state", "applied", "pending", "absent", "failed"],
        *([name, "yes", "active", "2", "0", "0", "0"] for name in ("fulltext", "milvus", "minio")),
    ]


def test_optional_sink_that_fails_does_not_hold_up_the_others(tmp_path: Path, installed: Path) -> None:
    folder = Folder(tmp_path / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")
    with closing(sqlite3.connect(folder.path / "metadata.db")) as database:
        database.execute(ROW.replace("TRUE", "FALSE", 1))
        database.commit()
    run(folder, installed, "init")
    line = {"doc_id": "a", "title": "A", "source_type": "text"}
    line["chunks"] = [{"content": "The cat sleeps.", "vector": vector("The cat sleeps.")}]  # type: ignore[assignment]
    folder.succeed("write", "-", stdin=json.dumps(line).encode())
    store = folder.path / "fulltext.db"
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        failed = run(folder, installed, "run", "--until-idle", status=1)
    assert "optional_sink_failing sink=fulltext" in failed.stderr
    assert "fulltext lacks 1, one is 'a': the sink failed: full text: database is locked" in failed.stderr
    assert folder.succeed("status")["documents"] == {"completed": 1}
    assert sinks(folder)["fulltext"] == (False, "active", 0, 0, 1, 0)
    run(folder, installed, "run", "--until-idle")
    assert FullTextSink(store).search("sleeps") == ["a"]
    assert sinks(folder)["fulltext"] == (False, "active", 1, 0, 0, 0)


def test_sink_is_added_rebuilt_made_optional_and_removed(tmp_path: Path, installed: Path) -> None:
    folder = Folder(tmp_path / "data", embedding_model=MODEL, vector_dimension=str(DIMENSION))
    folder.succeed("init")
    write_lines(folder, old=["The cat sleeps.", "Taxes are due."], other=["The dog sleeps."])
    folder.succeed("run", "--until-idle")
    write_lines(folder, waiting=["The bird sleeps."])  # its event, and its vectors, are in the outbox only
    run(folder, installed, "sinks", "add", "fulltext", "--required")
    assert sinks(folder)["fulltext"] == (True, "active", 2, 0, 1, 0)
    assert folder.succeed("status")["documents"] == {"completed": 2, "pending": 1}
    run(folder, installed, "sinks", "add", "fulltext")  # nothing is left to do
    run(folder, installed, "run", "--until-idle")
    fulltext = FullTextSink(folder.path / "fulltext.db")
    assert set(fulltext.search("sleeps")) == {"old", "other", "waiting"}
    assert folder.succeed("status")["documents"] == {"completed": 3}

    refused = run(folder, installed, "sinks", "remove", "fulltext", status=1)
    assert "first run rag-outbox sinks add fulltext --optional" in refused.stderr
    with closing(sqlite3.connect(folder.path / "fulltext.db")) as database:
        database.execute("UPDATE chunks SET content = 'damaged'")
        database.commit()
    assert fulltext.search("sleeps") == []
    run(folder, installed, "rebuild", "fulltext")
    assert (set(fulltext.search("sleeps")), fulltext.search("damaged")) == ({"old", "other", "waiting"}, [])
    assert sinks(folder)["fulltext"] == (True, "active", 3, 0, 0, 0)
    assert folder.sql("SELECT options FROM sinks WHERE name = 'fulltext'") == [(None,)]

    run(folder, installed, "sinks", "add", "fulltext", "--optional")
    assert sinks(folder)["fulltext"][:2] == (False, "active")
    run(folder, installed, "sinks", "remove", "fulltext")
    assert sinks(folder).keys() == {"milvus", "minio"}
    assert folder.sql("SELECT COUNT(*) FROM sink_states WHERE sink = 'fulltext'") == [(0,)]
    write_lines(folder, late=["The fish sleeps."])
    folder.succeed("run", "--until-idle")
    assert folder.succeed("status")["documents"] == {"completed": 4}
    run(folder, installed, "sinks", "add", "fulltext")  # again: its store has rows of before
    assert set(fulltext.search("sleeps")) == {"old", "other", "waiting", "late"}
    assert sinks(folder)["fulltext"] == (False, "active", 4, 0, 0, 0)


def write_lines(folder: Folder, **documents: list[str]) -> None:
    lines = [
        {
            "doc_id": doc_id,
            "title": doc_id,
            "source_type": "text",
            "chunks": [{"content": content, "vector": vector(content)} for content in contents],
        }
        for doc_id, contents in documents.items()
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())


def test_unknown_sink_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    folder.succeed("init")
    database = f"sqlite:///{folder.path}/metadata.db"
    outcome = folder.run("consume", "nosuch", kafka_bootstrap_servers="127.0.0.1:1", database_url=database)
    assert outcome.status == 1
    assert outcome.err == "rag-outbox: there is no sink 'nosuch' in the table sinks; there are: milvus, minio\n"


def test_factory_is_found_by_its_entry_point(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.syspath_prepend(EXAMPLE)
    factory = load_factory("fulltext")
    assert factory is not None
    assert factory.__name__ == "make"  # type: ignore[attr-defined]
    assert load_factory("other") is None


def test_skipped_version_makes_the_document_absent_and_a_refill_heals_it(
    pipeline: Pipeline, fulltext: FullTextSink
) -> None:
    """Milvus confirmed the tombstone of version 2 before version 3 was written, so version 3 does not name it."""
    own = Applier(pipeline.engine, fulltext, PluginMarks("fulltext"))
    pipeline.upsert(document("a", "alpha", "beta"), document("b", "delta"))
    own.apply(pipeline.pending())
    pipeline.run()
    events = []
    for contents in (["beta"], ["beta", "gamma"]):
        pipeline.upsert(document("a", *contents))
        events += pipeline.pending()
        pipeline.run()
    own.apply(events)
    state = "SELECT doc_id, state, applied_version FROM sink_states WHERE sink = 'fulltext' ORDER BY doc_id"
    assert pipeline.sql(state) == [("a", "absent", 0), ("b", "applied", 1)]
    refill = Refill(pipeline.engine, fulltext, PluginMarks("fulltext"), pipeline.store)
    assert refill.run_round() == 1
    assert pipeline.sql(state) == [("a", "applied", 3), ("b", "applied", 1)]
    assert [fulltext.search(word) for word in ("alpha", "beta", "gamma", "delta")] == [[], ["a"], ["a"], ["b"]]
    assert dict(pipeline.sql("SELECT doc_id, status FROM documents")) == {"a": "completed", "b": "completed"}


def test_optional_sink_that_skipped_the_first_version_is_refilled(pipeline: Pipeline, fulltext: FullTextSink) -> None:
    """The required sinks confirmed the vectors of version 1, so version 2 does not carry them."""
    pipeline.execute("UPDATE sinks SET required = FALSE WHERE name = 'fulltext'")
    events = []
    for contents in (["alpha", "beta"], ["alpha", "beta", "gamma"]):
        pipeline.upsert(document("a", *contents))
        events += pipeline.pending()
        pipeline.run()
    Applier(pipeline.engine, fulltext, PluginMarks("fulltext")).apply(events)
    assert Refill(pipeline.engine, fulltext, PluginMarks("fulltext"), pipeline.store).run_round() == 1
    assert [fulltext.search(word) for word in ("alpha", "beta", "gamma")] == [["a"]] * 3


def test_version_in_parts_is_refilled_so_that_its_removals_are_not_lost(
    pipeline: Pipeline, fulltext: FullTextSink
) -> None:
    own = Applier(pipeline.engine, fulltext, PluginMarks("fulltext"))
    pipeline.upsert(document("a", "alpha", "beta"))
    own.apply(pipeline.pending())
    pipeline.run()
    pipeline.upsert(document("a", *(f"word{number} {'x' * 60_000}" for number in range(20))))
    events = pipeline.pending()
    assert len(events) > 2
    pipeline.run()  # Milvus confirms the tombstones
    for event in events:
        own.apply([event])
    refill = Refill(pipeline.engine, fulltext, PluginMarks("fulltext"), pipeline.store)
    assert refill.run_round() == 1
    assert [fulltext.search(word) for word in ("alpha", "word0", "word19")] == [[], ["a"], ["a"]]
    assert pipeline.sql("SELECT status FROM documents") == [("completed",)]


def test_optional_sink_that_lacks_a_part_does_not_hold_the_version(pipeline: Pipeline, fulltext: FullTextSink) -> None:
    """The required sinks confirmed all parts of version 1, so version 2 does not carry their vectors."""
    pipeline.execute("UPDATE sinks SET required = FALSE WHERE name = 'fulltext'")
    contents = [f"word{number} {'x' * 60_000}" for number in range(20)]
    pipeline.upsert(document("a", *contents))
    first = pipeline.pending()
    pipeline.run()
    pipeline.upsert(document("a", *contents, "new"))
    second = pipeline.pending()
    pipeline.run()
    assert (len(first) > 2, len(second)) == (True, 1)
    own = Applier(pipeline.engine, fulltext, PluginMarks("fulltext"))
    own.apply(first[:-1])
    own.apply([first[-1], *second])
    state = "SELECT state, applied_version FROM sink_states WHERE sink = 'fulltext'"
    assert pipeline.sql(state) == [("absent", 0)]
    assert Refill(pipeline.engine, fulltext, PluginMarks("fulltext"), pipeline.store).run_round() == 1
    assert pipeline.sql(state) == [("applied", 2)]
    assert [fulltext.search(word) for word in ("word0", "word19", "new")] == [["a"]] * 3


def test_example_is_small() -> None:
    assert len((EXAMPLE / "own_sink.py").read_text().splitlines()) <= 80
