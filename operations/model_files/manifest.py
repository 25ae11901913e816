"""The layout of a model in the bucket: parts named by their digest, and a manifest that lists them.

A file of 2 GiB becomes parts of 32 MiB, so that putting and fetching need little memory and continue where they were
interrupted. The manifest is written last: a reader of the manifest finds every part.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from operations.errors import OperationError
from schema.object_store.port import ObjectMissing, ObjectStore

PREFIX = "models/"
PART_BYTES = 32 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelMissing(OperationError):
    """Raised when the bucket has no usable files of a model. Put them there with `rag-outbox models put`."""


class ModelFile(msgspec.Struct, frozen=True):
    path: str  # relative, with slashes
    size_bytes: int
    parts: tuple[str, ...]  # hex digests, SHA-256, in order


class Manifest(msgspec.Struct, frozen=True):
    model: str
    dimension: int
    files: tuple[ModelFile, ...]
    part_bytes: int = PART_BYTES

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def parts(self) -> set[str]:
        return {part for file in self.files for part in file.parts}


def part_key(model: str, digest: str) -> str:
    return f"{parts_prefix(model)}{digest}"


def parts_prefix(model: str) -> str:
    return f"{PREFIX}{model}/parts/"


def manifest_key(model: str) -> str:
    return f"{PREFIX}{model}/manifest.json"


def read_manifest(store: ObjectStore, model: str) -> tuple[Manifest, bytes]:
    """The manifest of a model, and its bytes. Raises ModelMissing."""
    try:
        content = store.read(manifest_key(model))
    except ObjectMissing:
        raise ModelMissing(
            f"the bucket has no model {model!r}: put its files there with rag-outbox models put {model} DIR, or name "
            "their folder in RAG_OUTBOX_EMBEDDER_FOLDER"
        ) from None
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise ModelMissing(f"{manifest_key(model)} is damaged: {error}; put the model again") from error
    for file in manifest.files:
        if not _is_plain(file.path) or not all(map(_SHA256.fullmatch, file.parts)):
            raise ModelMissing(
                f"{manifest_key(model)} is damaged: it names the file {file.path!r}; put the model again"
            )
    return manifest, content


def list_models(store: ObjectStore) -> Iterator[Manifest]:
    """Every model that is complete, in the order of their names. Raises ModelMissing for a damaged manifest."""
    for key in store.keys(PREFIX):
        name, _, rest = key.removeprefix(PREFIX).partition("/")
        if rest == "manifest.json" and _NAME.fullmatch(name):
            yield read_manifest(store, name)[0]


def _is_plain(path: str) -> bool:
    """Whether a path stays below the folder that it is relative to."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts and pure.as_posix() == path
