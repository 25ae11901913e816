"""The settings of a test: those that it gives, and none of the machine on which it runs."""

import os
from pathlib import Path

import pytest

from operations import settings
from operations.settings import PREFIX, Settings


def clear_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Work in `folder`, without a .env, and remove every setting from the environment. Returns the folder."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    return folder


def load_settings(monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    """The settings of an environment that also has these."""
    for name, value in given.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    return settings.load()
