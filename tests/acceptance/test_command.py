"""The `rag-outbox` command: results, exit status, help, settings and errors, for a person and for a script."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from operations.milvus_lite import process as milvus_lite
from tests.acceptance.conftest import Here
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance

DATABASE = "RAG_OUTBOX_DATABASE_URL:"
COMMANDS = ("init", "write", "ingest", "delete", "resync", "list", "show", "search", "status", "run", "demo")
IDLE_SINK = {"applied": 0, "unapplied": 0, "oldest_unapplied_age_seconds": None, "failed": 0}


def lines(*documents: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps({"source_type": "text", **document}).encode() + b"\n" for document in documents)


def test_init_may_be_repeated(prepared: Folder, tmp_path: Path) -> None:
    folder = Folder.copied(prepared, tmp_path / "data")
    before = folder.dump()

    [(system_id,)] = folder.sql("SELECT system_id FROM system_identity")
    assert folder.succeed("init") == {
        "profile": "embedded",
        "database": str(folder.path / "metadata.db"),
        "kafka": None,
        "milvus": f"Milvus Lite {folder.path / 'vectors.db'}, collection rag_vectors",
        "object_store": f"{folder.path / 'objects'}, bucket rag-knowledge-base",
        "data_dir": str(folder.path),
        "embedding_model": "wordllama-l2_supercat-256",
        "dimension": 256,
        "system_id": system_id,
    }
    assert folder.dump() == before


def test_two_documents_from_write_to_delete(folder: Folder, here: Here) -> None:
    """write, status, run, search, delete, run: every key of every result."""
    cats = {"doc_id": "cats", "title": "Cats", "chunks": [{"content": "The cat sleeps on a warm mat all day."}]}
    taxes = {"doc_id": "taxes", "title": "Taxes", "chunks": [{"content": "Income tax is due in May."}]}

    written = folder.succeed("write", "-", stdin=lines(cats, taxes))
    assert written == {"written": 2, "unchanged": 0, "chunks": 2, "embedded": 2, "retries": {}}

    waiting = folder.succeed("status")
    assert waiting.pop("oldest_pending_age_seconds") > 0
    assert waiting["sinks"]["milvus"].pop("oldest_unapplied_age_seconds") > 0
    assert waiting["sinks"]["minio"].pop("oldest_unapplied_age_seconds") > 0
    sink = {"applied": 0, "unapplied": 2, "failed": 0}
    assert waiting == {
        "documents": {"pending": 2},
        "pending_events": 2,
        "sinks": {"milvus": sink, "minio": sink},
        "failed": [],
        "failing": [],
        "dead_letters": 0,
        "tasks": {"queued": 0, "running": 0, "failed": 0},
        "backups": {},
    }

    assert folder.succeed("run", "--until-idle") == {"events": 2}

    hits = folder.succeed("search", "feline resting on a rug", "--limit", "1")["hits"]
    assert len(hits) == 1
    assert 0.1 < hits[0].pop("score") <= 1
    assert hits == [
        {
            "doc_id": "cats",
            "title": "Cats",
            "content": "The cat sleeps on a warm mat all day.",
            "file": None,
            "source_url": None,
            "business_tag": None,
            "modal_type": "text",
            "stale": False,
        }
    ]

    assert folder.succeed("delete", "cats") == {"deleted": 1, "deleted_before": 0}
    assert here(folder, "delete", "cats", "--json").facts == {"deleted": 0, "deleted_before": 1}
    found = here(folder, "search", "feline resting on a rug", "--json").facts["hits"]
    assert [hit["doc_id"] for hit in found] == ["taxes"]  # immediately, though Milvus still has the deleted one
    assert folder.succeed("run", "--until-idle") == {"events": 1}
    folder.assert_in_step()
    applied = IDLE_SINK | {"applied": 2}
    assert here(folder, "status", "--json").facts == {
        "documents": {"completed": 1, "deleted": 1},
        "pending_events": 0,
        "oldest_pending_age_seconds": None,
        "sinks": {"milvus": applied, "minio": applied},
        "failed": [],
        "failing": [],
        "dead_letters": 0,
        "tasks": {"queued": 0, "running": 0, "failed": 0},
        "backups": {},
    }


def test_output_for_a_person(folder: Folder, here: Here) -> None:
    assert here(folder, "status").out.splitlines() == [
        "Documents: none",
        "Pending events: 0",
        "sink    applied  unapplied  oldest unapplied  failed",
        "milvus        0          0                 -       0",
        "minio         0          0                 -       0",
        "Dead letters: 0",
        "Backups: none",
    ]
    assert here(folder, "search", "anything").out == "Nothing found.\n"


def test_delete_removes_all_documents_or_none(folder: Folder, here: Here) -> None:
    here(folder, "write", "-", stdin=lines({"doc_id": "kept", "title": "Kept", "chunks": [{"content": "Words."}]}))

    outcome = here(folder, "delete", "kept", "unknown", "--json")

    assert (outcome.status, outcome.facts) == (1, {"error": "no such document: 'unknown'"})
    assert folder.sql("SELECT doc_id, version FROM documents") == [("kept", 1)]


def test_delete_takes_an_id_twice(folder: Folder, here: Here) -> None:
    here(folder, "write", "-", stdin=lines({"doc_id": "d", "title": "D", "chunks": [{"content": "Words."}]}))
    assert here(folder, "delete", "d", "d", "--json").facts == {"deleted": 1, "deleted_before": 0}
    outcome = here(folder, "delete", "d", "x", "y", "x", "--json")
    assert outcome.facts == {"error": "no such document: 'x', 'y'"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["search", "\udce9"], "TEXT: '\\udce9' is not UTF-8"),
        (["search", "x", "--business-tag", "\udce9"], "--business-tag: '\\udce9' is not UTF-8"),
        (["list", "--business-tag", "\udce9"], "--business-tag: '\\udce9' is not UTF-8"),
        (["show", "\udce9"], "DOC_ID: '\\udce9' is not UTF-8"),
    ],
)
def test_argument_that_is_not_utf8_is_named(arguments: list[str], reason: str, prepared: Folder, here: Here) -> None:
    outcome = here(prepared, *arguments, "--json")
    assert (outcome.status, outcome.facts) == (2, {"error": reason})


def test_deletion_of_an_id_that_is_not_utf8_names_it(prepared: Folder, here: Here) -> None:
    outcome = here(prepared, "delete", "\udce9", "--json")
    assert (outcome.status, outcome.facts) == (1, {"error": "no such document: '\\udce9'"})


def test_search_filters_by_tag_and_type_with_any_quotes(folder: Folder, here: Here) -> None:
    odd = 'a "quoted" \\ tag\'s % {name} or business_tag != ""'
    chunks = [{"content": f"Gardening advice number {number}."} for number in range(3)]
    here(
        folder,
        "write",
        "-",
        stdin=lines(
            {"doc_id": "plain", "title": "Plain", "business_tag": "hr", "chunks": chunks},
            {"doc_id": "odd", "title": "Odd", "business_tag": odd, "chunks": chunks},
            {"doc_id": "image", "title": "Image", "chunks": [{"content": "Gardening picture.", "modal_type": "image"}]},
        ),
    )
    folder.succeed("run", "--until-idle")

    def found(*options: str) -> list[str]:
        return [hit["doc_id"] for hit in here(folder, "search", "gardening", "--json", *options).facts["hits"]]

    with milvus_lite.own(folder.path / "vectors.db"):  # all searches share it
        assert sorted(found("--limit", "50")) == ["image", "odd", "odd", "odd", "plain", "plain", "plain"]
        assert found("--business-tag", "hr") == ["plain"] * 3
        assert found("--source-type", "text", "--limit", "1", "--business-tag", "hr") == ["plain"]
        assert found("--language", "en") == found("--domain", "x") == found("--source-type", "pdf") == []
        assert found("--business-tag", odd, "--limit", "2") == ["odd"] * 2
        assert found("--business-tag", 'hr" or chunk_id != "') == []
        assert found("--modal-type", "image") == ["image"]
        assert found("--modal-type", "image", "--business-tag", "hr") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example(name: str, prepared: Folder, here: Here) -> None:
    outcome = here(prepared, name, "--help")

    assert outcome.status == 0
    assert f"Usage: rag-outbox {name}" in outcome.out
    assert "Example: " in outcome.out
    assert f"rag-outbox {name}" in outcome.out.partition("Example: ")[2]
    assert [kind for kind in ("list[", "<bool>", "FileBinaryRead") if kind in outcome.out] == []


def test_help_names_every_command(prepared: Folder, here: Here) -> None:
    outcome = here(prepared, "-h")

    assert outcome.status == 0
    assert [name for name in COMMANDS if f"│ {name} " not in outcome.out] == []


def test_version_is_printed(prepared: Folder) -> None:
    outcome = prepared.run("--version")

    assert (outcome.status, outcome.out, outcome.err) == (0, f"{version('rag-outbox')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["status", "--jsn"], "No such option: --jsn"),
        (["statsu"], "No such command 'statsu'"),
        (["search"], "Missing argument 'TEXT'"),
        (["search", "x", "--limit", "0"], "must be greater than or equal to 1"),
        (["run", "--give-up-seconds", "soon"], "must be a valid number"),
        (["ingest"], "Missing argument 'PATH'"),
        (["search", " "], "TEXT: the question is blank"),
        (["search", "x", "--source-type", "pfd"], "--source-type 'pfd': must be one of pdf, word, "),
        (["dead-letters", "list", "--stage", "milvs"], "--stage 'milvs': must be one of relay, milvus, minio"),
        (["dead-letters", "replay", "1", "--stage", "milvs", "--all"], "--all, not both"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], reason: str, prepared: Folder, here: Here) -> None:
    outcome = here(prepared, *arguments)

    assert (outcome.status, outcome.out) == (2, "")
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1

    as_json = here(prepared, *arguments, "--json")
    assert as_json.status == 2
    assert reason in as_json.facts["error"]
    assert as_json.err == f"rag-outbox: {as_json.facts['error']}\n"


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("data_dri", "x", "unknown setting RAG_OUTBOX_DATA_DRI; did you mean RAG_OUTBOX_DATA_DIR?"),
        ("colour", "x", "unknown setting RAG_OUTBOX_COLOUR"),
        ("milvus_uri", "", "RAG_OUTBOX_MILVUS_URI is empty: give it a value, or unset it"),
        (
            "kafka_bootstrap_servers",
            "",
            "RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS is empty: give it a value, or unset it",
        ),
        (
            "milvus_uri",
            "./vectors.db",
            "RAG_OUTBOX_MILVUS_URI: must be http(s)://host:port or file:///path/vectors.db",
        ),
        ("object_store", "s3://bucket", "RAG_OUTBOX_OBJECT_STORE: must be file:///path or http(s)://host:port"),
        (
            "object_store",
            "http://127.0.0.1:9000",
            "RAG_OUTBOX_OBJECT_STORE: a server needs RAG_OUTBOX_OBJECT_STORE_ACCESS_KEY and …_SECRET_KEY",
        ),
        (
            "kafka_bootstrap_server",
            "127.0.0.1:9092",
            "RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVER is set, but RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS is not",
        ),
        *(
            (
                "object_store_bucket",
                name,
                "RAG_OUTBOX_OBJECT_STORE_BUCKET: must be 3 to 63 lower-case letters, digits, dots and hyphens; each "
                "part between dots must begin and end with a letter or digit; an IP address is not allowed",
            )
            for name in ("w1", "Documents", "../documents", "10.0.0.1")
        ),
        (
            "namespace",
            "-",
            "RAG_OUTBOX_OBJECT_STORE_BUCKET (it is '--knowledge-base', from the namespace): must be 3 to 63 lower-case "
            "letters, digits, dots and hyphens; each part between dots must begin and end with a letter or digit; an "
            "IP address is not allowed",
        ),
        ("database_url", "mysql", "RAG_OUTBOX_DATABASE_URL: not a usable SQLAlchemy URL"),
        ("database_url", "mysql+pymysql://u:hush@host:port/x", "RAG_OUTBOX_DATABASE_URL: not a usable SQLAlchemy URL"),
        ("database_url", "sqlite:////gone/x.db", "RAG_OUTBOX_DATABASE_URL: there is no folder /gone"),
        (
            "database_url",
            "sqlite:///:memory:",
            f"{DATABASE} must name a file; a database in memory ends with the process",
        ),
        ("database_url", "mysql://u:hush@host/x", f"{DATABASE} must start with mysql+pymysql:// or sqlite:///"),
        ("database_url", "mariadb+pymysql://u@host/x", f"{DATABASE} must start with mysql+pymysql:// or sqlite:///"),
        ("data_dir", "/dev/null", "RAG_OUTBOX_DATA_DIR: /dev/null is not a folder"),
        ("profile", "service", "RAG_OUTBOX_PROFILE: must be 'embedded' or 'services'"),
        (
            "vector_dimension",
            "many",
            "RAG_OUTBOX_VECTOR_DIMENSION: must be a whole number",
        ),
        ("tracing", "maybe", "RAG_OUTBOX_TRACING: must be true or false"),
        ("vector_dimension", "0", "RAG_OUTBOX_VECTOR_DIMENSION: must be at least 1"),
    ],
)
def test_wrong_setting_ends_with_2(setting: str, value: str, reason: str, prepared: Folder, here: Here) -> None:
    outcome = here(prepared, "status", "--json", **{setting: value})

    assert (outcome.status, outcome.facts) == (2, {"error": reason})
    assert outcome.err == f"rag-outbox: {reason}\n"


def test_unknown_setting_in_the_env_file_ends_with_2(folder: Folder) -> None:
    (folder.path.parent / ".env").write_text("OTHER=1\nRAG_OUTBOX_MILVUS_URL=http://127.0.0.1\n")

    outcome = folder.run("status")

    reason = "unknown setting RAG_OUTBOX_MILVUS_URL; did you mean RAG_OUTBOX_MILVUS_URI?"
    assert (outcome.status, outcome.out, outcome.err) == (2, "", f"rag-outbox: {reason}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["write", "-"],
        ["ingest", "."],
        ["delete", "x"],
        ["resync", "x"],
        ["list"],
        ["show", "x"],
        ["search", "x"],
        ["status"],
        ["run", "--until-idle"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_asks_for_init_first(arguments: list[str], tmp_path: Path, here: Here) -> None:
    folder = Folder(tmp_path / "data")

    outcome = here(folder, *arguments, "--json")

    reason = f"nothing is initialised in {folder.path}: run rag-outbox init"
    assert (outcome.status, outcome.facts) == (1, {"error": reason})
    assert not folder.path.exists()


def test_lost_database_is_not_created_again_by_a_look_at_it(tmp_path: Path, here: Here) -> None:
    """`backup restore` refuses a folder with a database in it."""
    folder = Folder(tmp_path / "data")
    (folder.path / "objects").mkdir(parents=True)

    outcome = here(folder, "status", "--json")

    database = folder.path / "metadata.db"
    reason = f"there is no database {database}: run rag-outbox init, or restore a backup"
    assert (outcome.status, outcome.facts) == (1, {"error": reason})
    assert not database.exists()


@pytest.mark.parametrize("arguments", [["relay"], ["consume", "milvus"], ["consume", "minio"]], ids=" ".join)
def test_services_ask_for_kafka_before_they_open_a_store(arguments: list[str], folder: Folder, here: Here) -> None:
    log = folder.path / "vectors.log"
    log.unlink()

    outcome = here(folder, *arguments, "--json")

    reason = "RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS is not set; without Kafka, use: rag-outbox run"
    assert (outcome.status, outcome.facts) == (2, {"error": reason})
    assert not log.exists()  # Milvus Lite was not started


@pytest.mark.parametrize(
    ("setting", "value"), [("embedding_model", "bge-m3"), ("vector_dimension", "1024")], ids=["model", "dimension"]
)
@pytest.mark.parametrize("name", ["init", "status"])
def test_other_embedding_model_is_refused(name: str, setting: str, value: str, folder: Folder, here: Here) -> None:
    before = folder.dump()

    outcome = here(folder, name, **{setting: value})

    assert (outcome.status, outcome.out) == (1, "")
    assert "the model of the system is 'wordllama-l2_supercat-256' of 256 dimensions" in outcome.err
    assert "to change the model of the system: rag-outbox rebuild milvus --embedder" in outcome.err
    assert folder.dump() == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"database_url": "mysql+pymysql://user:hush@127.0.0.1:1/rag"}, "metadata database: (2003, "),
        (
            {"milvus_uri": "http://127.0.0.1:1", "milvus_token": "root:hush", "profile": "embedded"},
            "Milvus: Fail connecting to server",
        ),
    ],
    ids=["database", "milvus"],
)
def test_errors_contain_no_secret(settings: dict[str, str], reason: str, folder: Folder) -> None:
    outcome = Folder(folder.path, **settings).run("search", "anything", "--json")

    assert outcome.status == 1
    assert outcome.facts["error"].startswith(reason)
    assert outcome.err.startswith(f"rag-outbox: {reason}")
    assert "hush" not in outcome.out + outcome.err
