"""Fetches a model from the bucket into a folder, once per machine.

The folder of a model is named by the digest of its manifest and appears whole: until then its files are in a folder
`….part`, where the next process continues after a crash. A lock lets one process of a machine fetch at a time.
"""

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from operations.model_files.manifest import Manifest, ModelFile, ModelMissing, part_key, read_manifest
from schema.object_store.port import ObjectMissing, ObjectStore

_log = logging.getLogger(__name__)


def fetch_model(store: ObjectStore, model: str, folder: Path) -> Path:
    """Return the folder with the model's files, below `folder`. Fetches what is missing, in parts of 32 MiB.

    Raises ModelMissing if the bucket lacks something, OSError from the disk, and the errors of the store.
    """
    manifest, content = read_manifest(store, model)
    digest = hashlib.sha256(content).hexdigest()
    complete = folder / f"{model}-{digest[:16]}"
    if complete.is_dir():
        return complete
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{model}.lock"):
        if not complete.is_dir():
            _fetch(store, manifest, complete)
    return complete


def _fetch(store: ObjectStore, manifest: Manifest, complete: Path) -> None:
    _log.warning("model_fetch_started model=%s bytes=%d", manifest.model, manifest.size_bytes)
    started = complete.with_name(f"{complete.name}.part")
    for file in manifest.files:
        path = started / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as stream:
            _fetch_file(store, manifest, file, stream)
    for folder in (started, *(path for path in started.rglob("*") if path.is_dir())):
        _sync(folder)
    started.rename(complete)
    _sync(complete.parent)
    _remove_others(complete, manifest.model)
    _log.warning("model_fetch_ended model=%s", manifest.model)


def _fetch_file(store: ObjectStore, manifest: Manifest, file: ModelFile, stream: BinaryIO) -> None:
    """Keep the parts that are there already, whatever a crash left of them."""
    for number, digest in enumerate(file.parts):
        stream.seek(number * manifest.part_bytes)
        if hashlib.sha256(stream.read(manifest.part_bytes)).hexdigest() == digest:
            continue
        key = part_key(manifest.model, digest)
        try:
            content = store.read(key)
        except ObjectMissing as error:
            raise ModelMissing(f"{error}: put the model again") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ModelMissing(f"object {key!r} is damaged: put the model again, after removing it")
        stream.seek(number * manifest.part_bytes)
        stream.write(content)
    stream.truncate(file.size_bytes)
    stream.flush()
    os.fsync(stream.fileno())


def _remove_others(complete: Path, model: str) -> None:
    """Interrupted fetches of earlier manifests. A complete folder stays: a process may be about to read it."""
    for path in complete.parent.glob(f"{model}-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
