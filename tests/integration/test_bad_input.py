"""Invariant 13 on SQLite and a directory: a refused write leaves every table and every file unchanged."""

import errno
import hashlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from producer import DocumentFile, FileUnusable, InvalidDocument, Writer
from schema.database.connection import connect
from schema.database.tables import metadata
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import Readable
from tests.support import written
from tests.support.bad_documents import CASES, BadDocument
from tests.support.pipeline import MODEL, chunk, document, set_model

pytestmark = pytest.mark.integration

INLINE_BYTES = 65_536  # the largest file that is sent inside the event


@pytest.fixture
def store(store: DirectoryStore, engine: Engine) -> DirectoryStore:
    """A store and a database that hold one good document; its large file is staged."""
    file = DocumentFile.from_bytes(b"x" * (INLINE_BYTES + 1), "good.md", store)
    with engine.begin() as connection:
        Writer(MODEL).upsert(connection, document("good", "one", "two", file=file, business_tag="tag"))
    return store


def everything(engine: Engine, store: DirectoryStore) -> tuple[object, object]:
    return written.tables(engine), written.files(store.root)


def upsert(engine: Engine, *documents: Any) -> None:
    with engine.begin() as connection:
        Writer(MODEL).upsert_many(connection, documents)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_invariant_13_bad_document_is_refused_and_nothing_is_written(
    engine: Engine, store: DirectoryStore, case: BadDocument
) -> None:
    bad = case.document()
    before = everything(engine, store)

    with engine.begin() as connection, pytest.raises(InvalidDocument) as refused:  # the caller commits
        Writer(MODEL).upsert(connection, bad)

    [problem] = refused.value.problems
    assert problem.field == case.field
    assert case.words in problem.message
    assert f"{case.field} {problem.message}" in str(refused.value)
    assert refused.value.doc_id == getattr(bad, "doc_id", None)
    assert everything(engine, store) == before


def test_bad_documents_have_unique_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 45


@pytest.mark.parametrize("position", [0, 1, 2])
def test_invariant_13_one_bad_document_refuses_whole_batch(
    engine: Engine, store: DirectoryStore, position: int
) -> None:
    batch = [document("new", "one"), document("good", "changed", file=b"y"), document("bad", "one", title="")]
    batch[position], batch[2] = batch[2], batch[position]
    before = everything(engine, store)

    with engine.begin() as connection, pytest.raises(InvalidDocument, match="document 'bad': title must not be empty"):
        Writer(MODEL).upsert_many(connection, batch)

    assert everything(engine, store) == before


def test_invariant_13_duplicate_document_in_batch_is_refused(engine: Engine, store: DirectoryStore) -> None:
    before = everything(engine, store)

    with (
        engine.begin() as connection,
        pytest.raises(InvalidDocument, match="'same': doc_id is a duplicate in one batch"),
    ):
        Writer(MODEL).upsert_many(connection, [document("same", "a"), document("other", "a"), document("same", "b")])

    assert everything(engine, store) == before


def test_invariant_13_resync_refuses_bad_chunks(engine: Engine, store: DirectoryStore) -> None:
    before = everything(engine, store)

    with engine.begin() as connection, pytest.raises(InvalidDocument, match=r"'good': chunks\[0\]\.vector must have 8"):
        Writer(MODEL).resync(connection, "good", [chunk("one", vector=[1.0])])

    assert everything(engine, store) == before


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing.md", "cannot read .*missing.md: No such file or directory"),
        (".", "cannot read .*: Is a directory"),
        ("pipe", "cannot read .*pipe: not a regular file"),
        ("file.md/below", "cannot read .*file.md/below: Not a directory"),
        ("a\0b", r"cannot read '.*a\\x00b': embedded null byte"),
        ("a\udcff\ud800b", "cannot read '.*': .* surrogates not allowed"),
        ("x" * 300, "cannot read .*: File name too long"),
        ("large.md", r"large.md: 65537 bytes; a file over 65536 bytes needs an object store for staging"),
    ],
)
def test_unusable_file_is_refused(tmp_path: Path, path: str, words: str) -> None:
    (tmp_path / "file.md").write_bytes(b"x" * INLINE_BYTES)
    (tmp_path / "large.md").write_bytes(b"x" * (INLINE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(FileUnusable, match=words):
        DocumentFile.from_path(tmp_path / path)

    assert DocumentFile.from_path(tmp_path / "file.md").content == b"x" * INLINE_BYTES


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; run the tests as another user")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.md"
    path.touch(0o000)

    with pytest.raises(FileUnusable, match=r"cannot read .*secret\.md: Permission denied"):
        DocumentFile.from_path(path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc has files that open and cannot be read")
def test_file_with_read_error_is_refused(store: DirectoryStore) -> None:
    before = written.files(store.root)

    with pytest.raises(FileUnusable, match="cannot read /proc/self/mem: Input/output error"):
        DocumentFile.from_path(Path("/proc/self/mem"), store)

    assert written.files(store.root) == before


class ChangingStore(DirectoryStore):
    """Changes the file when the store begins to read it."""

    def __init__(self, root: Path, path: Path, content: bytes) -> None:
        super().__init__(root)
        self._path_to_change, self._content = path, content

    def put(self, key: str, stream: Readable, *, size_bytes: int | None, content_type: str, sha256: str | None) -> None:
        self._path_to_change.write_bytes(self._content)
        super().put(key, stream, size_bytes=size_bytes, content_type=content_type, sha256=sha256)


@pytest.mark.parametrize("content", [b"", b"x" * INLINE_BYTES, b"y" * 2_000_000], ids=["emptied", "shorter", "other"])
def test_large_file_changed_during_read_leaves_nothing(store: DirectoryStore, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "large.md"
    path.write_bytes(b"x" * 2_000_000)
    os.utime(path, (0, 0))  # a clock tick may be longer than the test
    before = written.files(store.root)

    with pytest.raises(FileUnusable, match=r"large\.md changed while it was read"):
        DocumentFile.from_path(path, ChangingStore(store.root, path, content))

    assert written.files(store.root) == before


def test_small_file_changed_during_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.md"
    path.write_bytes(b"before")
    os.utime(path, (0, 0))
    sha256 = hashlib.sha256

    def change_before_reading() -> Any:
        path.write_bytes(b"after!")
        return sha256()

    monkeypatch.setattr(hashlib, "sha256", change_before_reading)

    with pytest.raises(FileUnusable, match=r"small\.md changed while it was read"):
        DocumentFile.from_path(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk, run the tests as root on Linux: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_staging_on_full_disk_leaves_nothing(
    engine: Engine, store: DirectoryStore, small_disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.md"
    path.write_bytes(b"x" * 2_000_000)
    full = DirectoryStore(small_disk / "objects")
    full.ensure()
    before = everything(engine, store)

    with pytest.raises(OSError, match="No space left on device") as refused:
        upsert(engine, document("new", "one", file=DocumentFile.from_path(path, full)))

    assert refused.value.errno == errno.ENOSPC
    assert everything(engine, store) == before
    assert written.files(small_disk) == {}
    fits = DocumentFile.from_bytes(b"y" * 900_000, "fits.md", full)  # the space is free again
    assert written.files(small_disk) == {f"objects/{fits.staged_key}": b"y" * 900_000}


def test_staging_in_read_only_folder_leaves_nothing(
    engine: Engine, store: DirectoryStore, small_disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.md"
    path.write_bytes(b"x" * (INLINE_BYTES + 1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = everything(engine, store)

    with pytest.raises(OSError, match="Read-only file system") as refused:
        upsert(engine, document("new", "one", file=DocumentFile.from_path(path, DirectoryStore(small_disk))))

    assert refused.value.errno == errno.EROFS
    assert everything(engine, store) == before


def test_full_database_disk_keeps_every_document_whole(small_disk: Path) -> None:
    engine = connect(f"sqlite:///{small_disk / 'metadata.db'}")
    metadata.create_all(engine)
    with engine.begin() as connection:
        set_model(connection)
    committed: list[int] = []

    def fill(number: int) -> None:
        upsert(engine, document(f"d{number}", *(f"{number} {position}" for position in range(20))))
        committed.append(number)

    with pytest.raises(OperationalError, match=r"database or disk is full|disk I/O error"):
        deque(map(fill, range(1_000)))

    statement = """SELECT COUNT(*), SUM(chunk_count), (SELECT COUNT(*) FROM chunks), (SELECT COUNT(*) FROM outbox),
                          (SELECT COUNT(*) FROM operation_logs), (SELECT COUNT(*) FROM sink_states) FROM documents"""
    count = len(committed)
    assert count > 0
    assert written.rows(engine, statement) == [(count, 20 * count, 20 * count, count, count, 2 * count)]
    engine.dispose()
