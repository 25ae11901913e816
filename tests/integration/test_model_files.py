"""Models in the bucket: put once, fetched once per machine, and continued after an interruption."""

import io
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from operations.errors import UsageError
from operations.model_files.fetch import fetch_model
from operations.model_files.manifest import ModelMissing, list_models, manifest_key, part_key
from operations.model_files.put import Put, find_files, put_model
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import ObjectStore
from schema.object_store.s3 import S3Store
from tests.support.servers import MinioServer
from tests.support.tiny_bge_m3 import TinyModel

pytestmark = pytest.mark.integration

PART_BYTES = 16 * 1024  # the table of the tiny model has 7 parts


class Watched:
    """A store that counts what is read and written, and fails after a given number of reads or writes."""

    def __init__(self, store: ObjectStore, *, fails_after: int = 10**9) -> None:
        self._store = store
        self._left = fails_after
        self.read_keys: list[str] = []
        self.put_keys: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str) -> bytes:
        content = self._store.read(key)
        self._count(key, self.read_keys)
        return content

    def put(self, key: str, *arguments: Any, **named: Any) -> None:
        self._count(key, self.put_keys)
        self._store.put(key, *arguments, **named)

    def _count(self, key: str, keys: list[str]) -> None:
        if not key.endswith(".json"):
            if not self._left:
                raise OSError("the store is away")
            self._left -= 1
            keys.append(key)


@pytest.fixture(params=["directory", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "directory":
        made = DirectoryStore(tmp_path / "bucket")
        made.ensure()
        yield made
        return
    server: MinioServer = request.getfixturevalue("minio_server")
    with server.bucket() as bucket:
        in_bucket = S3Store(server.client(), bucket)
        in_bucket.ensure()
        yield in_bucket


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = TinyModel().write(tmp_path / "model", nested=True)
    (folder / "pytorch_model.bin").write_bytes(b"is not needed")
    (folder / "onnx" / "README.md").write_text("is not needed")
    return folder


def put(store: Any, folder: Path) -> Put:
    return put_model(store, "bge-m3", 1_024, folder, find_files(folder), part_bytes=PART_BYTES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fetched_folder_is_the_one_that_was_put(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    assert list(list_models(store)) == []
    done = put(store, folder)
    wanted = contents(folder)
    for unneeded in ("pytorch_model.bin", "onnx/README.md"):
        del wanted[unneeded]
    assert set(wanted) == {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/tokenizer.json", "sparse_linear.pt"}
    assert (done.files, done.size_bytes) == (4, sum(map(len, wanted.values())))
    fetched = fetch_model(store, "bge-m3", tmp_path / "cache")
    assert contents(fetched) == wanted
    [listed] = list_models(store)
    assert (listed.model, listed.dimension, listed.size_bytes) == ("bge-m3", 1_024, done.size_bytes)


def test_put_sends_only_what_the_bucket_lacks(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the store is away"):
        put(Watched(store, fails_after=4), folder)
    with pytest.raises(ModelMissing, match="the bucket has no model 'bge-m3'"):
        fetch_model(store, "bge-m3", tmp_path / "cache")
    rest = put(store, folder)
    assert rest.kept_parts == 4
    assert rest.written_parts > 4
    again = put(store, folder)
    assert (again.written_parts, again.kept_parts) == (0, rest.kept_parts + rest.written_parts)
    weights = folder / "onnx" / "model.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert put(store, folder).written_parts == 1
    assert contents(fetch_model(store, "bge-m3", tmp_path / "cache"))["onnx/model.onnx_data"] == weights.read_bytes()


def test_interrupted_fetch_continues(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    """Whatever a crash left of a part is fetched again, and the folder appears only when it is whole."""
    put(store, folder)
    cache = tmp_path / "cache"
    first = Watched(store, fails_after=5)
    with pytest.raises(OSError, match="the store is away"):
        fetch_model(first, "bge-m3", cache)
    [started] = cache.glob("*.part")
    weights = started / "onnx" / "model.onnx_data"
    weights.write_bytes(weights.read_bytes()[: PART_BYTES + 7])
    second = Watched(store)
    fetched = fetch_model(second, "bge-m3", cache)
    assert contents(fetched)["onnx/model.onnx_data"] == (folder / "onnx" / "model.onnx_data").read_bytes()
    assert not list(cache.glob("*.part"))
    kept = set(first.read_keys) - set(second.read_keys)
    assert kept, "nothing was kept of the first fetch"
    third = Watched(store)
    assert fetch_model(third, "bge-m3", cache) == fetched
    assert third.read_keys == []


def test_machine_fetches_a_part_once(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    done = put(store, folder)
    watched = [Watched(store) for _ in range(4)]
    start = threading.Barrier(len(watched))

    def fetch(one: Watched) -> Path:
        start.wait(60)
        return fetch_model(one, "bge-m3", tmp_path / "cache")

    with ThreadPoolExecutor(len(watched)) as pool:
        assert len(set(pool.map(fetch, watched))) == 1
    assert sum(len(one.read_keys) for one in watched) == done.written_parts


def test_lost_and_damaged_objects_are_named(store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    put(store, folder)
    [listed] = list_models(store)
    lost = part_key("bge-m3", listed.files[-1].parts[0])
    content = store.read(lost)
    store.remove([lost])
    with pytest.raises(ModelMissing, match="is missing: put the model again"):
        fetch_model(store, "bge-m3", tmp_path / "cache")
    write(store, lost, b"damaged")
    with pytest.raises(ModelMissing, match="is damaged: put the model again"):
        fetch_model(store, "bge-m3", tmp_path / "cache")
    write(store, lost, content)
    fetch_model(store, "bge-m3", tmp_path / "cache")
    text = store.read(manifest_key("bge-m3"))
    for damaged in (b"{}", text[:100], text.replace(b'"onnx/model.onnx"', b'"../../model.onnx"')):
        write(store, manifest_key("bge-m3"), damaged)
        with pytest.raises(ModelMissing, match="is damaged"):
            fetch_model(store, "bge-m3", tmp_path / "cache")


def test_put_removes_parts_that_no_manifest_names_after_a_day(folder: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "bucket")
    store.ensure()
    put(store, folder)
    [before] = list_models(store)
    head = folder / "sparse_linear.pt"
    head.write_bytes(head.read_bytes() + b"!")
    assert put(store, folder).removed_parts == 0
    yesterday = time.time() - 25 * 3_600
    for digest in before.parts:
        os.utime(store.location(part_key("bge-m3", digest)), (yesterday, yesterday))
    assert put(store, folder).removed_parts == 1
    fetch_model(store, "bge-m3", tmp_path / "cache")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/tokenizer.json", "sparse_linear.pt"])
def test_missing_file_is_named_before_anything_is_sent(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"there is no {Path(name).name}"):
        find_files(folder)


def write(store: ObjectStore, key: str, content: bytes) -> None:
    stream = io.BytesIO(content)
    store.put(key, stream, size_bytes=len(content), content_type="application/octet-stream", sha256=None)
