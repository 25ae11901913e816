"""Which settings a consumer embeds with: those of the table `sinks`, or its own if they name the same model."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from operations.instance_model import apply_model, model_of_settings
from operations.settings import Settings
from tests.support.environment import clear_settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return clear_settings(monkeypatch, tmp_path)


def on_server(url: str, model: str = "e5", key: str | None = None, other_key: str | None = None) -> Settings:
    return Settings(
        embedder="openai",
        embedding_model=model,
        vector_dimension=384,
        embedder_url=url,
        embedder_key=None if key is None else SecretStr(key),
        other_embedder_key=None if other_key is None else SecretStr(other_key),
    )


def key_of(settings: Settings) -> str | None:
    return settings.embedder_key.get_secret_value() if settings.embedder_key else None


def test_settings_of_the_same_model_win_since_its_server_may_have_moved() -> None:
    stored = model_of_settings(on_server("http://old:1/v1"))
    applied = apply_model(on_server("http://new:2/v1", key="hush"), stored)
    assert (applied.embedder_url, key_of(applied)) == ("http://new:2/v1", "hush")


def test_settings_that_embed_nothing_do_not_hide_the_stored_model() -> None:
    stored = model_of_settings(on_server("http://old:1/v1"))
    applied = apply_model(Settings(embedder="none", embedding_model="e5", vector_dimension=384), stored)
    assert (applied.embedder, applied.embedder_url) == ("openai", "http://old:1/v1")


@pytest.mark.parametrize(
    ("url", "key"),
    [("http://ours:1/v1", "ours"), ("http://ours:1/v1/", "ours"), ("http://theirs:1/v1", "theirs")],
)
def test_each_server_gets_the_key_of_its_own_address(url: str, key: str) -> None:
    stored = model_of_settings(on_server(url, model="other"))
    applied = apply_model(on_server("http://ours:1/v1", key="ours", other_key="theirs"), stored)
    assert (applied.embedder_url, key_of(applied)) == (url, key)
