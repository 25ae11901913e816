"""The command with BGE-M3's files from the bucket, and with a server that speaks `/v1/embeddings`."""

import shutil
from pathlib import Path

import pytest

from tests.acceptance.conftest import Here
from tests.support import embedding_server
from tests.support.commands import Folder
from tests.support.tiny_bge_m3 import TinyModel

pytestmark = pytest.mark.acceptance

KEY = "sk-hush-456"


def write_texts(folder: Path, *texts: str) -> Path:
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    return folder


def test_bge_m3_from_the_bucket_embeds_writes_and_finds(tmp_path: Path, here: Here) -> None:
    folder = Folder(tmp_path / "data", embedder="bge-m3")
    facts = here(folder, "init", "--json").facts
    assert (facts["embedding_model"], facts["dimension"]) == ("bge-m3", 1_024)
    texts = write_texts(tmp_path / "texts", "w1 w2 w3 w1 w2 w3", "w7 w8 w9", "w15 w16")

    assert here(folder, "models", "list", "--json").facts == {"models": []}
    lacks = here(folder, "ingest", str(texts))
    assert lacks.status == 1
    assert "the bucket has no model 'bge-m3': put its files there with rag-outbox models put bge-m3 DIR" in lacks.err
    assert folder.sql("SELECT count(*) FROM documents") == [(0,)]

    model = TinyModel().write(tmp_path / "model")
    put = here(folder, "models", "put", "bge-m3", str(model), "--json").facts
    assert (put["files"], put["written_parts"]) == (4, 4)
    again = here(folder, "models", "put", "bge-m3", str(model))
    assert again.out.endswith("bytes: 0 parts written, 4 there already.\n")
    [listed] = here(folder, "models", "list", "--json").facts["models"]
    assert listed == {"model": "bge-m3", "dimension": 1_024, "files": 4, "size_bytes": put["size_bytes"]}
    shutil.rmtree(model)

    done = here(folder, "ingest", str(texts), "--json").facts
    assert (done["written"], done["embedded"], done["failed"]) == (3, 3, [])
    assert folder.sql("SELECT count(*) FROM embedding_cache") == [(3,)]
    assert here(folder, "run", "--until-idle").status == 0
    [hit] = here(folder, "search", "w7 w9", "--limit", "1", "--json").facts["hits"]
    assert hit["content"] == "w7 w8 w9"
    with folder.milvus() as client:
        rows = client.query("rag_vectors", filter='chunk_id != ""', output_fields=["content", "sparse"], limit=10)
    wanted = {text: TinyModel().weights(text) for text in ("w1 w2 w3 w1 w2 w3", "w7 w8 w9", "w15 w16")}
    for row in rows:
        found = {token: weight for token, weight in dict(row["sparse"]).items() if weight > 1e-20}
        assert found == pytest.approx(wanted.pop(row["content"]), abs=1e-3)
    assert not wanted

    compared = here(folder, "reconcile", "--json")
    assert compared.status == 0, compared.out
    other = here(folder, "search", "w7", embedder="wordllama")
    assert other.status == 1
    assert "the model of the system is 'bge-m3' of 1024 dimensions" in other.err


@pytest.mark.parametrize("wrong", ["missing", "damaged"])
def test_wrong_model_folder_puts_nothing(wrong: str, folder: Folder, tmp_path: Path, here: Here) -> None:
    model = TinyModel().write(tmp_path / "model")
    if wrong == "missing":
        (model / "tokenizer.json").unlink()
    else:
        (model / "model.onnx_data").write_bytes(b"short")
    refused = here(folder, "models", "put", "bge-m3", str(model))
    assert refused.status == 2
    assert refused.err.startswith("rag-outbox: DIR: ")
    assert here(folder, "models", "list").out == "The bucket has no models.\n"
    unknown = here(folder, "models", "put", "e5", str(model))
    assert (unknown.status, unknown.err) == (2, "rag-outbox: MODEL 'e5': must be one of bge-m3\n")


def test_server_embeds_passages_and_questions(folder: Folder, tmp_path: Path, here: Here) -> None:
    texts = write_texts(tmp_path / "texts", "The relay publishes.", "Milvus holds vectors.")
    with embedding_server.serve(dimension=256) as server:
        settings = {
            "embedder": "openai",
            "embedder_url": server.url,
            "embedder_key": KEY,
            "embedding_model": "wordllama-l2_supercat-256",
            "vector_dimension": "256",
            "embedder_model": "e5",
            "embedder_query_prefix": "query: ",
            "embedder_passage_prefix": "passage: ",
        }
        assert here(folder, "ingest", str(texts), "--json", **settings).facts["embedded"] == 2
        passages = ["passage: The relay publishes.", "passage: Milvus holds vectors."]
        assert sorted(server.texts) == sorted(passages)
        server.requests.clear()
        assert here(folder, "search", "what", "--json", **settings).status == 0
        assert [(one["model"], one["input"]) for one in server.requests] == [("e5", ["query: what"])]
        (texts / "copy.txt").write_text("Milvus holds vectors.")  # another document: from the cache
        assert here(folder, "ingest", str(texts), "--json", **settings).facts["written"] == 1
        assert len(server.requests) == 1

        (texts / "new.txt").write_text("New.")
        server.replies = [embedding_server.error(401, f"wrong key {KEY}")]
        refused = here(folder, "ingest", str(texts), **settings)
        assert refused.status == 1
        assert "refuses the key, HTTP status 401: wrong key …" in refused.err
        assert KEY not in refused.err + refused.out
        server.replies = [embedding_server.refuse_if(lambda text: "New" in text)] * 10
        skipped = here(folder, "ingest", str(texts), "--json", **settings)
        assert skipped.status == 1
        [failed] = skipped.facts["failed"]
        assert failed.endswith("text 0: the server refuses it, HTTP status 400: too long")
    assert folder.sql("SELECT count(*) FROM documents") == [(3,)]


def test_no_embedder_is_named(folder: Folder, tmp_path: Path, here: Here) -> None:
    texts = write_texts(tmp_path / "texts", "Text.")
    for arguments in (["ingest", str(texts)], ["search", "what"]):
        refused = here(folder, *arguments, embedder="none")
        assert refused.status == 2
        assert refused.err.startswith("rag-outbox: RAG_OUTBOX_EMBEDDER: nothing embeds text here for the model ")
