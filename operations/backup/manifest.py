"""The manifest: the last object that a backup writes, so a backup with a manifest is complete."""

import io

import msgspec

from operations.backup import keys
from operations.backup.errors import BackupUnusable
from schema.object_store.port import ObjectMissing, ObjectStore

FORMAT = 1


class Dump(msgspec.Struct, frozen=True):
    """`dialect`: `mysql` for SQL of mysqldump, `sqlite` for a database file."""

    key: str
    dialect: str
    size_bytes: int
    sha256: str


class TableState(msgspec.Struct, frozen=True):
    """The rows of a table, and a checksum over all of them that does not depend on their order."""

    rows: int
    checksum: str


class Server(msgspec.Struct, frozen=True):
    """The server of the dump, and where its binlog was; empty if it does not say."""

    version: str
    gtid_executed: str = ""
    binlog_file: str = ""
    binlog_position: int = 0


class TopicPosition(msgspec.Struct, frozen=True):
    """Where a restore begins to check the topic, per partition: read before the dump's snapshot.

    Everything before was published, and marked by every sink, before the snapshot.
    """

    topic: str
    topic_id: str
    starts: dict[int, int]


class ObjectList(msgspec.Struct, frozen=True):
    """The list of the objects that belong to the backup: a line per object with its key and size."""

    key: str
    sha256: str
    objects: int
    size_bytes: int  # of the objects


class Copied(msgspec.Struct, frozen=True):
    """What the copy of the objects did; `gone` were removed after the dump, before they were copied."""

    copied: int
    skipped: int
    gone: int
    damaged: list[str]  # keys whose bytes do not have their SHA-256


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`tables` is None, and `unverified` says why, if rows could not be counted in the dump's own snapshot.

    `copied` is None in the system's own bucket, which has the objects themselves.
    """

    format: int = FORMAT
    timestamp: str
    release: str  # of rag-outbox
    revision: str
    system_id: str
    namespace: str
    history_id: str
    histories: list[str]
    embedding_model: str
    dimension: int
    lanes: int
    server: Server
    dump: Dump
    tables: dict[str, TableState] | None
    unverified: str
    locked_seconds: float  # how long writers waited
    topic: TopicPosition | None
    objects: ObjectList
    copied: Copied | None = None

    @property
    def rows(self) -> int | None:
        return None if self.tables is None else sum(table.rows for table in self.tables.values())

    @property
    def has_copy(self) -> bool:
        return self.copied is not None


def write(store: ObjectStore, manifest: Manifest) -> None:
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    store.put(
        keys.manifest_key(manifest.timestamp),
        io.BytesIO(content),
        size_bytes=len(content),
        content_type="application/json",
        sha256=None,
    )


def read(store: ObjectStore, timestamp: str) -> Manifest:
    """Raises BackupUnusable."""
    key = keys.manifest_key(timestamp)
    try:
        content = store.read(key)
        declared = msgspec.json.decode(content)
        if not isinstance(declared, dict) or declared.get("format") != FORMAT:
            raise BackupUnusable(f"{key}: its format is not {FORMAT}: a newer rag-outbox made it; use that release")
        return msgspec.convert(declared, Manifest, strict=False)
    except ObjectMissing:
        raise BackupUnusable(f"there is no backup of {timestamp}: {store.location(key)} is missing") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupUnusable(f"{key} cannot be read: {error}") from None
