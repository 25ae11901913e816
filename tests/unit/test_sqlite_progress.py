"""The file next to a SQLite database that says how far the sinks have seen its events."""

import logging
import os
from pathlib import Path
from stat import S_ISDIR

import pytest
from sqlalchemy import create_engine

from schema.database import sqlite_progress

pytestmark = pytest.mark.unit


def test_number_is_kept_and_never_gets_smaller(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'metadata.db'}")
    assert not sqlite_progress.is_older_copy(engine, None), "nothing is noted yet"
    sqlite_progress.note_relayed(engine, 7)
    sqlite_progress.note_relayed(engine, 5)
    assert (tmp_path / "metadata.db.relayed").read_text() == "7\n"
    assert [sqlite_progress.is_older_copy(engine, counter) for counter in (None, 6, 7, 8)] == [True, True, False, False]
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.db.relayed"]


@pytest.mark.parametrize("content", [b"", b"12", b"\n", b"-5\n", b"1_0\n", b"\xff\n", b"9" * 5_000 + b"\n"])
def test_damaged_file_is_unknown_and_replaced_by_the_next_note(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A number without its end may be a longer number that was cut."""
    engine = create_engine(f"sqlite:///{tmp_path / 'metadata.db'}")
    noted = tmp_path / "metadata.db.relayed"
    noted.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert not sqlite_progress.is_older_copy(engine, 3)
    assert caplog.messages == [f"progress_unreadable file={noted}"]
    sqlite_progress.note_relayed(engine, 4)
    assert sqlite_progress.is_older_copy(engine, 3)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_database_in_memory_has_no_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = create_engine(url)
    sqlite_progress.note_relayed(engine, 4)
    assert list(tmp_path.iterdir()) == []
    assert not sqlite_progress.is_older_copy(engine, 3)


def test_new_name_is_on_disk_before_the_sinks_get_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that a power failure undoes would hide that the database is replaced by an older copy."""
    synced: list[tuple[bool, bool]] = []
    noted, sync = tmp_path / "metadata.db.relayed", os.fsync

    def watch(handle: int) -> None:
        synced.append((S_ISDIR(os.fstat(handle).st_mode), noted.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    sqlite_progress.note_relayed(create_engine(f"sqlite:///{tmp_path / 'metadata.db'}"), 7)
    assert synced == [(False, False), (True, True)]
