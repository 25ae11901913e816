"""The BGE-M3 loader on a tiny generated model: its answers are those that numpy computes by hand."""

import logging
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from producer.processing.embed import bge_m3
from producer.processing.embed.bge_m3 import BgeM3Embedder
from producer.processing.embed.port import Embedder, EmbedError, SparseEmbedder, embed_query
from producer.processing.embed.sparse_head import load_sparse_head
from tests.support.tiny_bge_m3 import DIMENSION, TinyModel, write_torch

pytestmark = pytest.mark.unit

TEXTS = ["w1 w2 w3", "w4", "w5 w5 w5 w6 strange", "w7 " * 40, "w19 w0"]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="module")
def folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("bge-m3"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> BgeM3Embedder:
    return BgeM3Embedder(folder, threads=1)


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_vectors_are_normalised_first_states(embedder: BgeM3Embedder, tiny: TinyModel) -> None:
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder, SparseEmbedder)
    vectors = embedder.embed(TEXTS)
    np.testing.assert_allclose(vectors, [tiny.vector(text) for text in TEXTS], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embed_query(embedder, TEXTS[0]), vectors[0], atol=1e-6)


def test_weights_are_largest_per_token_without_special_ones(embedder: BgeM3Embedder, tiny: TinyModel) -> None:
    embedded = embedder.embed_both(TEXTS)
    assert embedded.weights is not None
    for text, weights in zip(TEXTS, embedded.weights, strict=True):
        assert weights == pytest.approx(tiny.weights(text), abs=1e-4)
        assert not {0, 1, 2, 3} & set(weights)
    assert sum(map(len, embedded.weights)) > 3


def test_result_does_not_depend_on_other_texts(embedder: BgeM3Embedder) -> None:
    together = embedder.embed_both(TEXTS * 30)  # several batches, sorted by length
    assert together.weights is not None
    for index, text in enumerate(TEXTS):
        alone = embedder.embed_both([text])
        assert alone.weights is not None
        for row in range(index, len(together.vectors), len(TEXTS)):
            np.testing.assert_allclose(together.vectors[row], alone.vectors[0], atol=1e-5)
            assert together.weights[row] == pytest.approx(alone.weights[0], abs=1e-4)


def test_no_texts_give_no_vectors(embedder: BgeM3Embedder) -> None:
    embedded = embedder.embed_both([])
    assert (embedded.vectors.shape, embedded.weights) == ((0, DIMENSION), [])


def test_long_text_is_cut_and_log_says_so(folder: Path, tiny: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    short = BgeM3Embedder(folder, threads=1, most_tokens=5)
    with caplog.at_level(logging.WARNING):
        vectors = short.embed(["w1 w2 w3", "w1 w2 w3 w4 w5"])
    np.testing.assert_allclose(vectors[1], tiny.vector("w1 w2 w3", 5), atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == ["embedding_truncated model=bge-m3 texts=1 tokens=5"]


def test_text_of_8192_tokens_is_not_cut(embedder: BgeM3Embedder, caplog: pytest.LogCaptureFixture) -> None:
    embedder.embed(["w1 " * 8_190])
    assert not caplog.records
    embedder.embed(["w1 " * 8_191])
    assert [record.getMessage() for record in caplog.records] == [
        "embedding_truncated model=bge-m3 texts=1 tokens=8192"
    ]


def test_batches_are_bounded_in_texts_and_tokens() -> None:
    lengths = [8_192, 8_192, 2_048, 2_048, *[512] * 40, *[16] * 300]
    batches = list(bge_m3._batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= 64
        assert len(batch) == 1 or len(batch) * longest <= 8_192
        assert len(batch) == 1 or len(batch) * longest**2 <= 4 * 1024 * 1024


@pytest.mark.parametrize("output", ["last_hidden_state", "token_embeddings"])
def test_files_may_be_in_folder_onnx(output: str, tiny: TinyModel, tmp_path: Path) -> None:
    nested = tiny.write(tmp_path, nested=True, output=output)
    np.testing.assert_allclose(BgeM3Embedder(nested).embed(["w1"])[0], tiny.vector("w1"), atol=1e-5)


def test_folder_may_be_fetched_at_first_use(folder: Path) -> None:
    calls: list[int] = []

    def fetch() -> Path:
        calls.append(1)
        return folder

    lazy = BgeM3Embedder(fetch)
    assert (lazy.model, lazy.dimension, calls) == ("bge-m3", 1_024, [])
    lazy.embed(["w1"])
    lazy.embed(["w2"])
    assert calls == [1]


@pytest.mark.parametrize(("text", "reason"), [(" \n", "is blank"), ("a\ud800", "lone surrogate at character 1")])
def test_text_without_vector_is_named(embedder: BgeM3Embedder, text: str, reason: str) -> None:
    with pytest.raises(EmbedError, match=f"text 2: {reason}") as caught:
        embedder.embed(["w1", "w2", text])
    assert caught.value.index == 2


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "sparse_linear.pt"])
def test_missing_and_damaged_files_are_named(name: str, folder: Path, tmp_path: Path) -> None:
    damaged = copy(folder, tmp_path)
    (damaged / name).write_bytes(b"damaged")
    with pytest.raises(EmbedError, match=rf"cannot read .*{name}: ") as caught:
        BgeM3Embedder(damaged).embed(["w1"])
    assert caught.value.index is None
    (damaged / name).unlink()
    with pytest.raises(EmbedError, match=f"there is no {name}"):
        BgeM3Embedder(damaged).embed(["w1"])


def test_other_model_is_refused(folder: Path, tiny: TinyModel, tmp_path: Path) -> None:
    other = tiny.write(tmp_path / "output", output="logits")
    with pytest.raises(EmbedError, match="no output last_hidden_state or token_embeddings, but logits"):
        BgeM3Embedder(other).embed(["w1"])
    strange = copy(folder, tmp_path)
    vocabulary = strange / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace("<pad>", "[PAD]"))
    with pytest.raises(EmbedError, match="has no token '<pad>', so it is not the tokenizer of bge-m3"):
        BgeM3Embedder(strange).embed(["w1"])


def test_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EmbedError, match=r"cannot load bge-m3: .*onnxruntime.*; install rag-outbox\[bge-m3\]"):
        BgeM3Embedder(folder).embed(["w1"])


# The sparse layer


@pytest.mark.parametrize("storage", ["HalfStorage", "FloatStorage", "DoubleStorage"])
def test_torch_file_is_read_without_torch(storage: str, tiny: TinyModel, tmp_path: Path) -> None:
    write_torch(tmp_path / "sparse_linear.pt", tiny.weight, tiny.bias, storage=storage)
    head = load_sparse_head(tmp_path, DIMENSION)
    np.testing.assert_allclose(head.weight, tiny.weight[0], atol=1e-4)
    assert head.bias == 0.25


def test_npz_file_is_read_too(tiny: TinyModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "sparse_linear.npz", weight=tiny.weight, bias=tiny.bias)
    np.testing.assert_array_equal(load_sparse_head(tmp_path, DIMENSION).weight, tiny.weight[0])


def test_pickle_that_calls_something_is_refused_and_calls_nothing(tiny: TinyModel, tmp_path: Path) -> None:
    target = tmp_path / "made-by-the-pickle"
    evil = b"cos\nmkdir\n(V" + str(target).encode() + b"\ntR0"
    write_torch(tmp_path / "sparse_linear.pt", tiny.weight, tiny.bias, evil=evil)
    with pytest.raises(EmbedError, match=r"it names os\.mkdir, which is not allowed"):
        load_sparse_head(tmp_path, DIMENSION)
    assert not target.exists()


def test_head_of_wrong_shape_or_size_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "sparse_linear.pt"
    write_torch(path, tiny.weight[:, :512], tiny.bias)
    with pytest.raises(EmbedError, match=r"weight must be \(1, 1024\) and bias \(1,\), are \(1, 512\) and \(1,\)"):
        load_sparse_head(tmp_path, DIMENSION)
    write_torch(path, tiny.weight * np.nan, tiny.bias)
    with pytest.raises(EmbedError, match="not finite"):
        load_sparse_head(tmp_path, DIMENSION)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("sparse_linear/data.pkl", b"\0" * (17 * 1024 * 1024))
    with pytest.raises(EmbedError, match="more than 16777216 bytes"):
        load_sparse_head(tmp_path, DIMENSION)
