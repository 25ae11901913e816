"""A system for backups: any metadata database, a folder as object store, Milvus only where a restore needs it."""

import io
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from operations.backup import keys
from operations.backup.create import create
from operations.backup.manifest import Manifest
from operations.settings import Settings
from operations.wiring import System
from schema.object_store import marker
from schema.object_store.port import ObjectStore
from tests.support.pipeline import DIMENSION, MODEL, SYSTEM_ID


def settings_of(engine: Engine, folder: Path, client: Path, **more: Any) -> Settings:
    """The embedded profile, with this database and the other stores in `folder`."""
    given: dict[str, Any] = {
        "profile": "embedded",
        "data_dir": folder,
        "database_url": SecretStr(engine.url.render_as_string(hide_password=False)),
        "embedding_model": MODEL,
        "vector_dimension": DIMENSION,
        "mysql_client_dir": client,
    }
    return Settings(**given | more)


def settings_as_text(given: Settings) -> dict[str, str]:
    """The same for a command."""
    fields = given.model_dump(exclude_defaults=True)
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value) for name, value in fields.items()
    }


@contextmanager
def system_of(given: Settings, engine: Engine) -> Iterator[System]:
    """A system on the engine of a test, whose bucket exists."""
    given.data_dir.mkdir(parents=True, exist_ok=True)
    system = System(given, engine)
    system.store.ensure()
    marker.claim(system.store, SYSTEM_ID)
    yield system


def make_backup(system: System, target: ObjectStore | None = None) -> Manifest:
    """A backup, which must need no word."""
    notes: list[str] = []
    made = create(system, target, note=notes.append)
    assert notes == []
    return made


def change_manifest(store: ObjectStore, timestamp: str, **fields: object) -> None:
    key = keys.manifest_key(timestamp)
    content = json.dumps(json.loads(store.read(key)) | fields).encode()
    store.put(key, io.BytesIO(content), size_bytes=len(content), content_type="application/json", sha256=None)


def scripted_client(folder: Path, real: Path, **scripts: str) -> Path:
    """A folder with programs of MySQL's client; `scripts` are lines of sh in front of `exec $REAL "$@"`."""
    folder.mkdir()
    for name in ("mysqldump", "mysql"):
        program = shlex.quote(str(real / name))
        version = f'[ "$1" = --version ] && exec {program} --version'
        (folder / name).write_text(f'#!/bin/sh\n{version}\n{scripts.get(name, "")}\nexec {program} "$@"\n')
        (folder / name).chmod(0o755)
    return folder
