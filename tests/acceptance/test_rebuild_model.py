"""`rag-outbox rebuild milvus --embedder` in the embedded profile: what it refuses, and the change itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import embedding_server
from tests.support.commands import Folder
from tests.support.embedding_server import EmbeddingServer

pytestmark = pytest.mark.acceptance

KEY = "sk-hush-789"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "data")
    made.succeed("init")
    return made


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with embedding_server.serve() as made:
        yield made


def options(server: EmbeddingServer, *more: str) -> list[str]:
    given = (f"url={server.url}", "model=other", "dimension=8", *more)
    return ["--embedder", "openai", *(part for one in given for part in ("--embedder-option", one))]


def write(folder: Folder, doc_id: str, *contents: str) -> None:
    chunks = [{"content": content} for content in contents]
    one = {"doc_id": doc_id, "title": doc_id, "source_type": "text", "chunks": chunks}
    folder.succeed("write", "-", stdin=json.dumps(one).encode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--embedder", "none"), "--embedder 'none': must be wordllama, bge-m3 or openai"),
        (("--embedder", "wordllama"), "--embedder: the model of the system is 'wordllama-l2_supercat-256' already"),
        (("--embedder", "bge-m3", "--embedder-option", "url=x"), "--embedder-option: bge-m3 has no options"),
        (("--embedder-option", "url=x"), "--embedder-option goes with --embedder"),
        (("--embedder", "openai"), "--embedder openai needs --embedder-option url=…"),
        (
            ("--embedder", "openai", "--embedder-option", "URL"),
            "--embedder-option: 'URL' must be NAME=VALUE, and each name given once; names: url, model, dimension, "
            "server-model, query-prefix, passage-prefix",
        ),
        (("--rollback", "--embedder", "wordllama"), "--rollback changes no index and no model"),
        (("--rollback", "--prepare"), "--rollback changes no index and no model, and goes without --prepare"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_refused(folder: Folder, arguments: tuple[str, ...], message: str) -> None:
    refused = folder.run("rebuild", "milvus", *arguments)
    assert (refused.status, message in refused.err) == (2, True), refused


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("dimension=40000", "--embedder-option dimension=40000: must be a number from 1 to 32768"),
        (f"model={'m' * 129}", "--embedder-option model: must have at most 128 characters"),
        ("url=ftp://host/v1", "RAG_OUTBOX_EMBEDDER_URL: must be http(s)://host:port/v1"),
    ],
)
def test_wrong_server_is_refused(folder: Folder, option: str, message: str) -> None:
    right = {"url": "http://127.0.0.1:1/v1", "model": "m", "dimension": "8"}
    name, _, value = option.partition("=")
    given = [f"--embedder-option={key}={text}" for key, text in (right | {name: value}).items()]
    refused = folder.run("rebuild", "milvus", "--embedder", "openai", *given)
    assert (refused.status, message in refused.err) == (2, True), refused


def test_model_that_does_not_work_creates_nothing(folder: Folder, server: EmbeddingServer) -> None:
    server.replies = [embedding_server.error(401, "no such key")]
    refused = folder.run("rebuild", "milvus", *options(server), other_embedder_key=KEY)
    assert refused.status == 1
    assert "the new model cannot embed the word 'test' here: " in refused.err
    assert "no such key" in refused.err
    assert KEY not in refused.err
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert [one["name"] for one in folder.succeed("sinks", "list")["sinks"]] == ["milvus", "minio"]


def test_another_model_finds_what_the_first_one_stored(folder: Folder, server: EmbeddingServer) -> None:
    write(folder, "d", "the cat sat on the mat", "dogs bark at night")
    write(folder, "empty")
    folder.succeed("run", "--until-idle")
    write(folder, "waiting", "its event waits in the outbox")

    prepared = folder.run("rebuild", "milvus", *options(server), "--prepare", "--json")
    assert (prepared.status, prepared.facts["prepared"]) == (0, "milvus-2"), prepared
    assert folder.succeed("search", "the cat sat on the mat")["hits"][0]["content"] == "the cat sat on the mat"
    other = folder.run("rebuild", "milvus", *options(server)[:-1], "dimension=9")
    assert (other.status, "milvus-2 is being built with another model" in other.err) == (1, True), other

    done = folder.run("rebuild", "milvus", *options(server), "--json")
    assert (done.status, done.facts["model"], done.facts["old"]) == (0, "other", None), done
    assert sorted(set(server.texts)) == ["dogs bark at night", "test", "the cat sat on the mat"]
    refused = folder.run("search", "cat")
    assert refused.status == 1
    assert "the model of the system is 'other' of 8 dimensions, the settings name 'wordllama" in refused.err

    new = Folder(folder.path, embedder="openai", embedder_url=server.url, embedding_model="other", vector_dimension="8")
    new.succeed("run", "--until-idle")
    assert "its event waits in the outbox" in server.texts, "it came with a vector of the first model"
    for text in ("the cat sat on the mat", "dogs bark at night", "its event waits in the outbox"):
        assert new.succeed("search", text, "--limit", "1")["hits"][0]["content"] == text
    asked = len(server.texts)
    new.succeed("resync", "d")
    new.succeed("run", "--until-idle")
    assert len(server.texts) == asked, "the cache knows the texts"
    write(new, "d", "the cat sat on the mat", "a new text")
    new.succeed("run", "--until-idle")
    assert new.sql("SELECT embedding_model FROM documents WHERE doc_id = 'd'") == [("other",)]
    assert new.sql("SELECT DISTINCT status FROM documents") == [("completed",)]
    assert new.succeed("reconcile", "--full", "--vectors")["differences"] == 0

    previous = json.dumps({"model": {"embedding_model": "wordllama-l2_supercat-256", "vector_dimension": 256}})
    new.change(
        "INSERT INTO sinks (name, required, takes_vectors, takes_files, state, options) "
        f"VALUES ('milvus', 0, 1, 0, 'leaving', '{previous}')"
    )
    finished = new.run("rebuild", "milvus", "--json")  # it was interrupted after the swap
    assert (finished.status, finished.facts["serving"], finished.facts["model"]) == (0, "milvus-2", "other"), finished
