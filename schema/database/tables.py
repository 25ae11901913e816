"""The tables, for MySQL 8.0 and later and for SQLite; CHECK and UNIQUE reject invalid rows.

Invariant 2: `documents.chunk_count` counts the chunks of `documents.version`, so that a reader on a replica can
distinguish a complete document from a partial one.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from schema import limits
from schema.database.clock import utc_now

LANES = 16  # hash buckets of documents; the topic `rag.relay-lanes` has one partition per lane

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SOURCE_TYPES = ("pdf", "word", "image", "webpage", "table", "text")
VECTOR_LEVELS = ("text", "table", "row", "col", "cell")
FILE_KINDS = ("raw", "text", "table", "image")  # of document_files: the original, and what was extracted from it
DOCUMENT_STATES = ("pending", "processing", "completed", "failed", "deleting")
SINK_STATES = ("pending", "applied", "failed", "absent")
SINK_ROLES = ("active", "joining", "leaving")
LETTER_STATES = ("open", "replayed", "discarded", "superseded")
TASK_TYPES = ("extract", "chunk", "embed", "sync")  # in this order
TASK_STATES = ("queued", "running", "completed", "failed", "superseded")

_OPTIONS: dict[str, Any] = {  # ids compare byte by byte, as in Milvus and the object store
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_0900_bin",
    "sqlite_autoincrement": True,  # no id is reused
}
_Id = BigInteger().with_variant(Integer(), "sqlite")
_Timestamp = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
_Payload = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql")


class lane_of(FunctionElement[int]):
    """The lane of a document, computed by the database, so that a service in any language can insert a row.

    SQLite has no CRC32 and only one relay, so any distribution over the lanes is correct there.
    """

    inherit_cache = True


@compiles(lane_of, "mysql")
def _lane_mysql(_element: lane_of, _compiler: SQLCompiler, **_: Any) -> str:
    return f"mod(crc32(aggregate_id), {LANES})"  # not %, which drivers read as a parameter


@compiles(lane_of, "sqlite")
def _lane_sqlite(_element: lane_of, _compiler: SQLCompiler, **_: Any) -> str:
    return f"(unicode(aggregate_id) % {LANES})"


def _enum(*values: str, name: str) -> Enum:
    return Enum(*values, name=name, create_constraint=True, validate_strings=True)


def _created_at(name: str = "created_at") -> Column[Any]:
    return Column(name, _Timestamp, nullable=False, server_default=utc_now())


def _doc_id(**options: Any) -> Column[Any]:
    return Column("doc_id", String(limits.DOC_ID_BYTES), nullable=False, **options)


documents = Table(
    "documents",
    metadata,
    _doc_id(primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("history_id", String(36), nullable=False),  # of the last write
    # The version that the document had when this history first wrote it.
    Column("history_base", BigInteger, nullable=False, server_default=text("0")),
    # A suspect: the highest version of a lost history that was seen. By it, such an event is recognised.
    Column("lost_version", BigInteger, nullable=False, server_default=text("0"), index=True),
    Column("title", String(limits.TITLE_CHARACTERS), nullable=False),
    Column("source_type", _enum(*SOURCE_TYPES, name="source_type"), nullable=False, index=True),
    Column("source_url", String(limits.SOURCE_URL_CHARACTERS)),
    Column("business_tag", String(limits.BUSINESS_TAG_BYTES), index=True),
    Column("domain", String(limits.DOMAIN_CHARACTERS)),
    Column("language", String(limits.LANGUAGE_CHARACTERS)),
    Column("file_size", BigInteger),
    Column("page_count", Integer),
    Column("oss_key", String(limits.OBJECT_KEY_BYTES)),
    Column("content_sha256", String(64)),  # of the stored file; `ingest` compares it
    Column("status", _enum(*DOCUMENT_STATES, name="status"), nullable=False, server_default="pending"),
    Column("chunk_count", Integer),  # NULL: not chunked yet
    # Of its vectors in the archive; NULL: the first one of the system.
    Column("embedding_model", String(limits.MODEL_CHARACTERS)),
    Column("created_at", _Timestamp, nullable=False, server_default=utc_now(), index=True),
    Column("updated_at", _Timestamp, nullable=False, server_default=utc_now()),
    Column("deleted_at", _Timestamp),
    Index("ix_documents_status_deleted_at", "status", "deleted_at"),  # status counts documents by it; list
    Index("ix_documents_updated_at", "updated_at"),  # list --updated-since
    Index("ix_documents_title", "title"),  # the console finds documents by the beginning of their title
    # The documents of one source (ingest --delete-missing). Of 1,024 characters, an index of MySQL takes 768.
    Index("ix_documents_source_url", "source_url", mysql_length=255),
    CheckConstraint("doc_id <> ''", name="doc_id_filled"),
    CheckConstraint("history_base >= 0 AND version > history_base", name="version_above_history_base"),
    CheckConstraint("lost_version >= 0", name="lost_version_natural"),
    CheckConstraint("chunk_count >= 0", name="chunk_count_natural"),
    CheckConstraint("status <> 'completed' OR chunk_count IS NOT NULL", name="completed_is_chunked"),
    CheckConstraint("status <> 'deleting' OR deleted_at IS NOT NULL", name="deleting_dated"),
    **_OPTIONS,
)

chunks = Table(
    "chunks",
    metadata,
    Column("chunk_id", String(limits.CHUNK_ID_BYTES), primary_key=True),
    Column("doc_id", ForeignKey("documents.doc_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("chunk_index", Integer, nullable=False),
    Column("chunk_strategy", String(limits.CHUNK_STRATEGY_CHARACTERS)),
    Column("vector_level", _enum(*VECTOR_LEVELS, name="vector_level"), nullable=False, index=True),
    Column("modal_type", String(limits.MODAL_TYPE_BYTES), nullable=False),
    Column("content", Text, nullable=False),  # a preview; the event carries the whole content
    Column("content_hash", String(64), nullable=False, index=True),
    Column("char_count", Integer, nullable=False),
    Column("start_char", Integer),  # offset in the extracted text
    Column("parent_chunk_id", String(limits.CHUNK_ID_BYTES)),
    Column("associate_id", String(limits.ASSOCIATE_ID_BYTES)),
    Column(
        "embedding_status",
        _enum("pending", "embedded", "failed", name="embedding_status"),
        nullable=False,
        server_default="embedded",
        index=True,
    ),
    Column("milvus_synced", Boolean, nullable=False, server_default=false()),
    Column("vector_version", BigInteger, nullable=False),  # version of the last event with this vector
    Column("vector_digest", BigInteger),  # of its bytes; NULL: unknown, any vector counts as the same
    Column("row_version", BigInteger, nullable=False),  # version of the last event with any field of this row
    _created_at(),
    _created_at("updated_at"),
    UniqueConstraint("doc_id", "chunk_index"),
    CheckConstraint("chunk_index >= 0", name="chunk_index_natural"),
    CheckConstraint("row_version >= vector_version AND vector_version >= 1", name="versions_ordered"),
    **_OPTIONS,
)

chunk_tombstones = Table(
    "chunk_tombstones",
    metadata,
    Column("chunk_id", String(limits.CHUNK_ID_BYTES), primary_key=True),
    _doc_id(index=True),
    Column("removed_in_version", BigInteger, nullable=False),
    **_OPTIONS,
)

document_files = Table(  # one row per object of a document in the object store
    "document_files",
    metadata,
    Column("object_key", String(limits.OBJECT_KEY_BYTES), primary_key=True),
    _doc_id(index=True),
    Column("kind", _enum(*FILE_KINDS, name="kind"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content_type", String(limits.CONTENT_TYPE_CHARACTERS), nullable=False),
    Column("staged_key", String(limits.OBJECT_KEY_BYTES), index=True),  # of a large file; the sweep looks it up
    Column("version", BigInteger, nullable=False),  # version of the last event with this file
    Column("removed_in_version", BigInteger),  # set: a tombstone until the minio sink confirms the removal
    CheckConstraint("size_bytes >= 0", name="size_natural"),
    **_OPTIONS,
)

sink_states = Table(
    "sink_states",
    metadata,
    Column("doc_id", String(limits.DOC_ID_BYTES), primary_key=True),
    Column("sink", String(32), primary_key=True),
    Column("desired_version", BigInteger, nullable=False),
    Column("applied_version", BigInteger, nullable=False, server_default=text("0")),
    Column("parts_version", BigInteger, nullable=False, server_default=text("0")),  # the version being applied in parts
    Column("parts_applied", Integer, nullable=False, server_default=text("0")),  # parts 1 to n of it are applied
    Column("state", _enum(*SINK_STATES, name="state"), nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # Incremented by every mark; an unexpected value reveals a concurrent consumer.
    Column("marks", BigInteger, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    _created_at("requested_at"),
    Column("applied_at", _Timestamp),
    CheckConstraint("applied_version BETWEEN 0 AND desired_version", name="applied_was_desired"),
    CheckConstraint("state <> 'applied' OR applied_version = desired_version", name="applied_is_desired"),
    Index("ix_sink_states_sink_state_requested_at", "sink", "state", "requested_at"),  # lag: the oldest pending
    **_OPTIONS,
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False),
    Column("lane", SmallInteger, Computed(lane_of(), persisted=True), nullable=False),
    Column("aggregate_type", String(32), nullable=False, server_default="document"),
    Column("aggregate_id", String(limits.DOC_ID_BYTES), nullable=False),
    Column("aggregate_version", BigInteger, nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("content_type", String(64), nullable=False),
    Column("headers", JSON(none_as_null=True)),
    Column("payload", _Payload, nullable=False),
    Column("payload_bytes", Integer, Computed("length(payload)", persisted=True), nullable=False),
    _created_at(),
    Index("ix_outbox_lane_id_payload_bytes", "lane", "id", "payload_bytes"),  # the claim chooses rows by it
    CheckConstraint("aggregate_version >= 1", name="version_positive"),
    **_OPTIONS,
)

outbox_dead_letters = Table(  # every dead letter of every stage
    "outbox_dead_letters",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("stage", String(32), nullable=False),  # 'relay', or the sink that rejected it
    Column("outbox_id", BigInteger, nullable=False),  # 0: a consumer does not know it
    Column("event_id", String(36), nullable=False),
    Column("aggregate_type", String(32), nullable=False),
    Column("aggregate_id", String(limits.DOC_ID_BYTES), nullable=False),
    Column("aggregate_version", BigInteger, nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("content_type", String(64), nullable=False),
    Column("headers", JSON(none_as_null=True)),
    Column("payload", _Payload),  # NULL: it is in Kafka, at `kafka_position`
    Column("kafka_position", String(300)),  # of the copy in the sink's topic of dead letters: topic/partition/offset
    Column("error", Text, nullable=False),
    Column("attempts", Integer, nullable=False),  # how often the stage refused the event
    _created_at("dead_at"),  # of the last refusal
    Column("state", _enum(*LETTER_STATES, name="state"), nullable=False, server_default="open"),
    Column("closed_at", _Timestamp),
    Column("closed_by", String(limits.OPERATOR_CHARACTERS)),
    Column("closed_reason", Text),
    UniqueConstraint("stage", "event_id"),
    Index("ix_outbox_dead_letters_stage_dead_at", "stage", "dead_at"),  # the limit counts the newest; status shows them
    # The open ones are counted, and those of a document listed.
    Index("ix_outbox_dead_letters_state_aggregate_id", "state", "aggregate_id"),
    Index("ix_outbox_dead_letters_closed_at", "closed_at"),  # retention removes those that were closed long ago
    CheckConstraint("payload IS NOT NULL OR kafka_position IS NOT NULL", name="payload_kept"),
    CheckConstraint("(state = 'open') = (closed_at IS NULL)", name="closed_dated"),
    **_OPTIONS,
)

operation_logs = Table(
    "operation_logs",
    metadata,
    Column("log_id", _Id, primary_key=True, autoincrement=True),
    Column("operation_type", _enum("INSERT", "UPDATE", "DELETE", "SYNC", name="operation_type"), nullable=False),
    Column("target_table", String(64), nullable=False),
    Column("target_id", String(limits.DOC_ID_BYTES), nullable=False, index=True),
    Column("payload", JSON(none_as_null=True)),  # the state before the operation
    Column("operator", String(limits.OPERATOR_CHARACTERS), nullable=False),
    Column("transaction_context", JSON(none_as_null=True)),  # of the caller: a request id, a user …
    _created_at(),
    Index("ix_operation_logs_created_at", "created_at"),  # retention removes the oldest
    **_OPTIONS,
)

processing_tasks = Table(  # the steps from an uploaded file to chunks with vectors; see producer/processing/tasks.py
    "processing_tasks",
    metadata,
    Column("task_id", String(64), primary_key=True),
    Column("task_type", _enum(*TASK_TYPES, name="task_type"), nullable=False),
    _doc_id(index=True),
    Column("status", _enum(*TASK_STATES, name="task_status"), nullable=False, server_default="queued"),
    Column("priority", Integer, nullable=False, server_default=text("0")),  # the highest first
    Column("retry_count", Integer, nullable=False, server_default=text("0")),
    Column("error_message", Text),
    Column("result_json", JSON(none_as_null=True)),  # of the step, for people
    Column("started_at", _Timestamp),
    Column("completed_at", _Timestamp),
    _created_at(),
    Column("upload_id", String(64), index=True),  # the first task of the chain; names its folder in the object store
    Column("input_json", JSON(none_as_null=True)),  # of the step
    Column("staged_key", String(limits.OBJECT_KEY_BYTES), index=True),  # of the uploaded file; the sweep looks it up
    Column("file_sha256", String(64)),  # of the uploaded file
    Column("version", BigInteger),  # of the document when the file was uploaded
    _created_at("available_at"),  # a task that failed waits until then
    Column("lease_until", _Timestamp),  # of the worker that runs it
    Column("attempt", Integer, nullable=False, server_default=text("0")),  # fences workers whose lease has ended
    # The next task.
    Index("ix_processing_tasks_status_priority_available_at", "status", text("priority DESC"), "available_at"),
    Index("ix_processing_tasks_status_completed_at", "status", "completed_at"),  # retention removes ended ones
    **_OPTIONS,
)

system_identity = Table(  # one row; `system` is a reserved word of MySQL
    "system_identity",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("system_id", String(36), nullable=False),
    Column("namespace", String(64), nullable=False),  # of its topics, collection and bucket
    Column("history_id", String(36), nullable=False),
    Column("server_uuid", String(36), nullable=False),  # of the server that the history runs on; '' on SQLite
    # Every new vector comes from the first of these two, which a rebuild may change; the other one is that of `init`.
    Column("embedding_model", String(limits.MODEL_CHARACTERS), nullable=False),
    Column("first_embedding_model", String(limits.MODEL_CHARACTERS), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("lanes", SmallInteger, nullable=False),
    _created_at(),
    CheckConstraint("id = 1", name="single_row"),
    CheckConstraint(f"dimension BETWEEN 1 AND {limits.VECTOR_DIMENSION}", name="dimension_in_range"),
    CheckConstraint(f"lanes BETWEEN 1 AND {limits.LANES}", name="lanes_in_range"),
    **(_OPTIONS | {"sqlite_autoincrement": False}),
)

histories = Table(  # a row per history; `system_identity` names the current one
    "histories",
    metadata,
    Column("number", _Id, primary_key=True, autoincrement=True),
    Column("history_id", String(36), nullable=False),
    Column("server_uuid", String(36), nullable=False),
    Column("reason", String(64), nullable=False),
    _created_at("started_at"),
    Column("checked_at", _Timestamp),  # when the topic was searched for events of a lost history
    UniqueConstraint("history_id"),
    **_OPTIONS,
)

reconcile_reports = Table(  # a row per run of reconcile; the oldest are removed
    "reconcile_reports",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    _created_at("started_at"),
    Column("ended_at", _Timestamp),  # NULL: the run is under way, or was interrupted
    Column("progress", JSON(none_as_null=True)),  # where an interrupted run continues
    Column("report", JSON(none_as_null=True)),  # of a run that ended
    **_OPTIONS,
)

retention_runs = Table(  # a row per retention policy: who works on it next, and what it did
    "retention_runs",
    metadata,
    Column("policy", String(32), primary_key=True),
    Column("due_at", _Timestamp, nullable=False),  # no process begins an hourly run before
    Column("ended_at", _Timestamp),  # of the last run without an error
    Column("seconds", Float, nullable=False, server_default=text("0")),  # that it took
    Column("removed", BigInteger, nullable=False, server_default=text("0")),  # by all runs
    Column("blocked", BigInteger, nullable=False, server_default=text("0")),  # what the last run found and must keep
    Column("position", String(limits.OBJECT_KEY_BYTES)),  # where the next run continues; NULL: at the start
    **_OPTIONS,
)

backups = Table(  # a row per kind of place where backups are made, and the newest one there
    "backups",
    metadata,
    Column("place", String(16), primary_key=True),  # bucket: that of the system; copy: what --to named
    _created_at("asked_at"),  # when somebody first began a backup there
    Column("made_at", _Timestamp),  # the timestamp of the newest complete one; NULL: none has ended yet
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("seconds", Float),  # that it took; NULL: not known, since a restore noted it
    **_OPTIONS,
)

tidied_documents = Table(  # documents of which retention has nothing to remove at this version
    "tidied_documents",
    metadata,
    Column("doc_id", String(limits.DOC_ID_BYTES), primary_key=True),
    Column("version", BigInteger, nullable=False),
    **_OPTIONS,
)

embedding_cache = Table(  # what embedding models answered, so that nobody pays twice; may be emptied at any time
    "embedding_cache",
    metadata,
    Column("cache_key", String(64), primary_key=True),  # SHA-256 over model, dimension and the whole text
    Column("model", String(limits.MODEL_CHARACTERS), nullable=False),  # for people, to remove what one model left
    Column("vector", _Payload, nullable=False),  # little-endian float32
    Column("sparse", LargeBinary),  # see schema/events/sparse.py; NULL: the embedder gives no weights
    _created_at("used_at"),  # to the day
    Index("ix_embedding_cache_used_at", "used_at"),  # the longest unused rows are removed
    **(_OPTIONS | {"sqlite_autoincrement": False}),
)

sinks = Table(
    "sinks",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("required", Boolean, nullable=False),  # a document is completed when every required sink holds its version
    Column("takes_vectors", Boolean, nullable=False),
    Column("takes_files", Boolean, nullable=False),
    Column("state", _enum(*SINK_ROLES, name="state"), nullable=False, server_default="active"),
    Column("options", JSON(none_as_null=True)),  # what a re-creation needs: the index of a Milvus collection, its model
    _created_at(),
    **_OPTIONS,
)
