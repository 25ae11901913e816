"""The settings of the embedder: a built-in one names its model itself, and a misfit is named."""

from pathlib import Path

import pytest

from operations import settings
from operations.settings import PREFIX, SettingsError
from tests.support.environment import clear_settings, load_settings

pytestmark = pytest.mark.unit

OPENAI = {
    "EMBEDDER": "openai",
    "EMBEDDER_URL": "https://host:8000/v1",
    "EMBEDDER_KEY": "hush",
    "EMBEDDING_MODEL": "e5",
    "VECTOR_DIMENSION": "384",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return clear_settings(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("given", "model", "dimension"),
    [
        ({}, "wordllama-l2_supercat-256", 256),
        ({"EMBEDDER": "wordllama"}, "wordllama-l2_supercat-256", 256),
        ({"EMBEDDER": "bge-m3"}, "bge-m3", 1_024),
        ({"EMBEDDER": "bge-m3", "EMBEDDING_MODEL": "bge-m3", "VECTOR_DIMENSION": "1024"}, "bge-m3", 1_024),
        (OPENAI, "e5", 384),
        ({"EMBEDDER": "none", "EMBEDDING_MODEL": "own", "VECTOR_DIMENSION": "7"}, "own", 7),
    ],
)
def test_embedder_names_model_and_dimension(
    given: dict[str, str], model: str, dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_settings(monkeypatch, **given)
    assert (loaded.embedding_model, loaded.vector_dimension) == (model, dimension)


def test_env_file_may_choose_the_embedder(folder: Path) -> None:
    (folder / ".env").write_text(f"{PREFIX}EMBEDDER=bge-m3\n{PREFIX}EMBEDDER_FOLDER=~/bge\n")
    loaded = settings.load()
    assert (loaded.embedding_model, loaded.vector_dimension) == ("bge-m3", 1_024)
    assert loaded.embedder_folder == Path.home() / "bge"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"EMBEDDER": "bge"}, "EMBEDDER: must be 'wordllama', 'bge-m3', 'openai' or 'none'"),
        (
            {"EMBEDDER": "bge-m3", "EMBEDDING_MODEL": "bge"},
            "EMBEDDING_MODEL: is 'bge', but RAG_OUTBOX_EMBEDDER=bge-m3 makes vectors of 'bge-m3': unset one of them",
        ),
        ({"EMBEDDER": "bge-m3", "VECTOR_DIMENSION": "512"}, "VECTOR_DIMENSION: bge-m3 has 1024 dimensions, not 512"),
        ({"EMBEDDER_KEY": "hush"}, "EMBEDDER_KEY: is only for RAG_OUTBOX_EMBEDDER=openai"),
        (OPENAI | {"EMBEDDER_FOLDER": "x"}, "EMBEDDER_FOLDER: is only for RAG_OUTBOX_EMBEDDER=bge-m3"),
        (OPENAI | {"EMBEDDER_URL": "host:8000"}, "EMBEDDER_URL: must be http(s)://host:port/v1"),
        (OPENAI | {"EMBEDDER_URL": "file:///v1"}, "EMBEDDER_URL: must be http(s)://host:port/v1, without a user"),
        (OPENAI | {"EMBEDDER_URL": "http://a:hush@host/v1"}, "EMBEDDER_URL: must be http(s)://host:port/v1, without"),
        (OPENAI | {"EMBEDDER_KEY": "hush\n"}, "EMBEDDER_KEY: must be printable ASCII without spaces"),
        (OPENAI | {"EMBEDDER_KEY": "hush hush"}, "EMBEDDER_KEY: must be printable ASCII without spaces"),
        ({"OTHER_EMBEDDER_KEY": "hush\n"}, "OTHER_EMBEDDER_KEY: must be printable ASCII without spaces"),
        ({"EMBEDDING_CACHE_ROWS": "-1"}, "EMBEDDING_CACHE_ROWS: must be at least 0"),
        ({"EMBEDDER": "bge-m3", "EMBEDDER_MAX_TOKENS": "9000"}, "EMBEDDER_MAX_TOKENS: must be at most 8192"),
    ],
)
def test_misfit_is_named(given: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(monkeypatch, **given)
    assert str(caught.value).startswith(f"{PREFIX}{reason}")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("missing", ["EMBEDDER_URL", "EMBEDDING_MODEL", "VECTOR_DIMENSION"])
def test_server_needs_url_model_and_dimension(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in OPENAI.items() if name != missing}
    with pytest.raises(SettingsError, match=f"^{PREFIX}{missing} is not set: {PREFIX}EMBEDDER=openai needs it$"):
        load_settings(monkeypatch, **given)
