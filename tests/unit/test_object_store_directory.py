"""The directory keeps the contract of every object store, and never leaves half a file."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schema.object_store.directory import DirectoryStore
from tests.contracts.object_store import MIB, ObjectStoreContract, put

pytestmark = pytest.mark.unit


def files(store: DirectoryStore) -> set[str]:
    """Everything on disk, hidden files included."""
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


class TestDirectoryStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[DirectoryStore]:
        store = DirectoryStore(tmp_path / "bucket")
        store.ensure()
        yield store
        assert list((store.root / ".parts").glob("*")) == []  # after every test

    @pytest.mark.parametrize("key", ["a\\b", "a\0b", "a/", ".parts/a", "x" * 256, "é" * 128])
    def test_key_that_no_directory_can_hold_is_refused(self, store: DirectoryStore, key: str) -> None:
        for call in (store.read, store.sha256, store.location, lambda key: store.remove([key])):
            with pytest.raises(ValueError, match="object key"):
                call(key)
        with pytest.raises(ValueError, match="object key"):
            put(store, key, b"x")
        assert files(store) == set()

    def test_object_cannot_replace_a_folder(self, store: DirectoryStore) -> None:
        put(store, "a/b", b"x")
        with pytest.raises(IsADirectoryError):
            put(store, "a", b"x")
        with pytest.raises((FileExistsError, NotADirectoryError)):
            put(store, "a/b/c", b"x")
        assert files(store) == {"a/b"}

    def test_removing_an_object_removes_its_empty_folders(self, store: DirectoryStore) -> None:
        put(store, "a/b/c/d", b"x")
        put(store, "a/e", b"x")
        store.remove(["a/b/c/d"])
        assert [path.name for path in (store.root / "a").iterdir()] == ["e"]

    def test_location_is_the_path_of_the_file(self, store: DirectoryStore) -> None:
        put(store, "a/b", b"hello")
        assert Path(store.location("a/b")).read_bytes() == b"hello"

    def test_ensure_removes_only_old_part_files(self, store: DirectoryStore) -> None:
        now = time.time()
        for key, age in {".parts/old": 86_500, ".parts/new": 0, "temp/upload_1/file": 8 * 86_400}.items():
            path = store.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            os.utime(path, (now - age, now - age))
        store.ensure()
        assert files(store) == {".parts/new", "temp/upload_1/file"}
        assert list(store.keys("")) == ["temp/upload_1/file"]
        (store.root / ".parts/new").unlink()

    def test_every_changed_file_and_folder_is_synced(
        self, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []

        def fsync(handle: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(store.root).as_posix())

        if not Path("/proc/self/fd").exists():
            pytest.skip("this system does not tell a file's name by its handle")
        monkeypatch.setattr(os, "fsync", fsync)
        put(store, "a/b/c", b"x")
        assert synced[0].startswith(".parts/")
        assert set(synced[1:]) == {".", "a", "a/b"}
        synced.clear()
        store.remove(["a/b/c"])
        assert synced == ["."]

    def test_full_disk_leaves_only_the_old_object(self, small_disk: Path) -> None:
        store = DirectoryStore(small_disk)
        store.ensure()
        put(store, "a", b"hello")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            put(store, "a", b"x" * (4 * MIB))
        assert files(store) == {"a"}
        assert store.read("a") == b"hello"
        put(store, "a", b"y" * 1000)  # the disk has room again
        assert store.read("a") == b"y" * 1000

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("only root may mount a small tmpfs")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.parametrize(
        ("function", "when", "left"),
        [  # put: sync the file, rename it, sync its folder
            ("os.fsync", "before", b"old"),
            ("os.fsync", "after", b"old"),
            ("pathlib.Path.replace", "before", b"old"),
            ("pathlib.Path.replace", "after", b"new"),
        ],
    )
    @pytest.mark.parametrize("call", ["put", "copy"])
    def test_killed_process_leaves_the_old_or_the_new_object(
        self, store: DirectoryStore, call: str, function: str, when: str, left: bytes
    ) -> None:
        put(store, "staged", b"new")
        put(store, "a", b"old")
        child = subprocess.run(
            [sys.executable, "-c", DYING, str(store.root), call, function, when], check=False, cwd=Path.cwd()
        )
        assert child.returncode == 137
        if (call, function) == ("copy", "os.fsync"):
            left = b"new"  # a copy syncs only its folder
        assert store.read("a") == left
        assert list(store.keys("")) == ["a", "staged"]
        put(store, "a", b"newer")
        assert store.read("a") == b"newer"
        for part in (
            store.root / ".parts"
        ).iterdir():  # a killed process may leave one: ensure() removes it a day later
            part.unlink()


DYING = """
import io, os, sys
from pathlib import Path
from unittest.mock import patch
from pkgutil import resolve_name
from schema.object_store.directory import DirectoryStore

root, call, function, when = sys.argv[1:]
real = resolve_name(function)

def dying(*args, **kwargs):
    if when == "after":
        real(*args, **kwargs)
    os._exit(137)

store = DirectoryStore(Path(root))
with patch(function, dying):
    if call == "put":
        store.put("a", io.BytesIO(b"new"), size_bytes=3, content_type="", sha256=None)
    else:
        store.copy("staged", "a", content_type="", sha256="")
"""
