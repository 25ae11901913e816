"""Puts the files of a model into the bucket: parts first, the manifest last.

Two processes may put the same model at once: parts have the same names and contents, and the last manifest wins. What
no manifest names is removed by a later put, a day after it was written.
"""

import hashlib
import io
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from operations.errors import OperationError, UsageError
from operations.model_files.manifest import (
    PART_BYTES,
    Manifest,
    ModelFile,
    manifest_key,
    part_key,
    parts_prefix,
)
from schema.object_store.port import ObjectStore

_REMOVED_AGE = timedelta(hours=24)


@dataclass
class Put:
    """What a put did."""

    files: int = 0
    size_bytes: int = 0
    written_parts: int = 0
    kept_parts: int = 0  # the bucket had them
    removed_parts: int = 0  # of an earlier put


def find_files(folder: Path) -> list[Path]:
    """The files of BGE-M3 in a folder, relative to it. Raises UsageError if one is missing."""
    if not folder.is_dir():
        raise UsageError(f"DIR: {folder} is not a folder")
    model = _require(folder, "model.onnx")
    head = next((one for one in ("sparse_linear.pt", "sparse_linear.npz") if (folder / one).is_file()), None)
    if head is None:
        raise UsageError(f"DIR: there is no sparse_linear.pt or sparse_linear.npz in {folder}")
    found = {model, _require(folder, "tokenizer.json"), folder / head, *_find_weights(model)}
    return sorted(path.relative_to(folder) for path in found)


def _require(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "onnx" / name):
        if path.is_file():
            return path
    raise UsageError(f"DIR: there is no {name} in {folder}, nor in its folder onnx")


def _find_weights(model: Path) -> Iterator[Path]:
    """The files next to a model whose names stand in it: it keeps large weights in files of their own."""
    if model.stat().st_size == 0:  # cannot be mapped
        return
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for path in sorted(model.parent.rglob("*")):
            name = path.relative_to(model.parent).as_posix()
            if path.is_file() and path != model and content.find(name.encode()) >= 0:
                yield path


def put_model(
    store: ObjectStore,
    model: str,
    dimension: int,
    folder: Path,
    files: list[Path],
    advance: Callable[[int], None] = lambda _: None,
    *,
    part_bytes: int = PART_BYTES,
) -> Put:
    """Write what the bucket lacks; `advance` receives the number of finished parts. Repeat it after an interruption.

    Raises OSError, and the errors of the store.
    """
    done = Put()
    listed = []
    for path in files:
        parts = []
        size_bytes = 0
        for content in _read_parts(folder / path, part_bytes):
            digest = hashlib.sha256(content).hexdigest()
            if store.sha256(part_key(model, digest)) == digest:
                done.kept_parts += 1
            else:
                _write(store, part_key(model, digest), content, digest)
                done.written_parts += 1
            parts.append(digest)
            size_bytes += len(content)
            advance(1)
        listed.append(ModelFile(path.as_posix(), size_bytes, tuple(parts)))
    manifest = Manifest(model, dimension, tuple(listed), part_bytes)
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _write(store, manifest_key(model), content, hashlib.sha256(content).hexdigest())
    present = {key.rpartition("/")[2] for key in store.keys(parts_prefix(model))}
    if missing := sorted(manifest.parts - present):  # a concurrent put of other files removed an old part
        raise OperationError(f"{part_key(model, missing[0])} was removed in the meantime: put the model again")
    done.files, done.size_bytes = len(listed), manifest.size_bytes
    done.removed_parts = _remove_unnamed(store, model, manifest)
    return done


def count_parts(folder: Path, files: list[Path], part_bytes: int = PART_BYTES) -> int:
    return sum(-(-(folder / path).stat().st_size // part_bytes) for path in files)


def _remove_unnamed(store: ObjectStore, model: str, manifest: Manifest) -> int:
    """By the clock of the store: the manifest was written just now."""
    [(_, now)] = store.written_at(manifest_key(model))
    old = [
        key
        for key, at in store.written_at(parts_prefix(model))
        if key.rpartition("/")[2] not in manifest.parts and now - at > _REMOVED_AGE
    ]
    store.remove(old)
    return len(old)


def _read_parts(path: Path, part_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while content := stream.read(part_bytes):
            yield content


def _write(store: ObjectStore, key: str, content: bytes, digest: str) -> None:
    kind = "application/json" if key.endswith(".json") else "application/octet-stream"
    store.put(key, io.BytesIO(content), size_bytes=len(content), content_type=kind, sha256=digest)
