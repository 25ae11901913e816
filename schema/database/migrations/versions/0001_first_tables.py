"""The first tables: documents and their chunks, files, tombstones and sink states, the outbox, logs and tasks.

Frozen: it imports nothing of ours, so that it always creates the same tables. MySQL commits every statement
separately, so it creates only what is missing after an interrupted run.
"""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
_PAYLOAD = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql")


def upgrade() -> None:
    if op.get_bind().dialect.name == "mysql":
        now = sa.text("(UTC_TIMESTAMP(6))")
        lane = "mod(crc32(aggregate_id), 16)"
    else:
        now = sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))")
        lane = "(unicode(aggregate_id) % 16)"

    _create_table(
        "documents",
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("history_id", sa.String(36), nullable=False),
        sa.Column("history_base", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("lost_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("title", sa.String(512), nullable=False),
        sa.Column(
            "source_type",
            _enum("ck_documents_source_type", "pdf", "word", "image", "webpage", "table", "text"),
            nullable=False,
        ),
        sa.Column("source_url", sa.String(1024)),
        sa.Column("business_tag", sa.String(128)),
        sa.Column("domain", sa.String(64)),
        sa.Column("language", sa.String(16)),
        sa.Column("file_size", sa.BigInteger),
        sa.Column("page_count", sa.Integer),
        sa.Column("oss_key", sa.String(256)),
        sa.Column("content_sha256", sa.String(64)),
        sa.Column(
            "status",
            _enum("ck_documents_status", "pending", "processing", "completed", "failed", "deleting"),
            nullable=False,
            server_default="pending",
        ),
        sa.Column("chunk_count", sa.Integer),
        sa.Column("embedding_model", sa.String(128)),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("updated_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("deleted_at", _TIMESTAMP),
        sa.PrimaryKeyConstraint("doc_id", name="pk_documents"),
        sa.CheckConstraint("doc_id <> ''", name="ck_documents_doc_id_filled"),
        sa.CheckConstraint(
            "history_base >= 0 AND version > history_base", name="ck_documents_version_above_history_base"
        ),
        sa.CheckConstraint("lost_version >= 0", name="ck_documents_lost_version_natural"),
        sa.CheckConstraint("chunk_count >= 0", name="ck_documents_chunk_count_natural"),
        sa.CheckConstraint(
            "status <> 'completed' OR chunk_count IS NOT NULL", name="ck_documents_completed_is_chunked"
        ),
        sa.CheckConstraint("status <> 'deleting' OR deleted_at IS NOT NULL", name="ck_documents_deleting_dated"),
    )
    _create_index("documents", "business_tag")
    _create_index("documents", "created_at")
    _create_index("documents", "lost_version")
    _create_index("documents", "source_type")
    _create_index("documents", "status", "deleted_at")
    _create_index("documents", "updated_at")
    _create_index("documents", "title")
    _create_index("documents", "source_url", mysql_length=255)

    _create_table(
        "chunks",
        sa.Column("chunk_id", sa.String(64), nullable=False),
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("chunk_index", sa.Integer, nullable=False),
        sa.Column("chunk_strategy", sa.String(32)),
        sa.Column(
            "vector_level", _enum("ck_chunks_vector_level", "text", "table", "row", "col", "cell"), nullable=False
        ),
        sa.Column("modal_type", sa.String(16), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("char_count", sa.Integer, nullable=False),
        sa.Column("start_char", sa.Integer),
        sa.Column("parent_chunk_id", sa.String(64)),
        sa.Column("associate_id", sa.String(64)),
        sa.Column(
            "embedding_status",
            _enum("ck_chunks_embedding_status", "pending", "embedded", "failed"),
            nullable=False,
            server_default="embedded",
        ),
        sa.Column("milvus_synced", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("vector_version", sa.BigInteger, nullable=False),
        sa.Column("vector_digest", sa.BigInteger),
        sa.Column("row_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("updated_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("chunk_id", name="pk_chunks"),
        sa.UniqueConstraint("doc_id", "chunk_index", name="uq_chunks_doc_id_chunk_index"),
        sa.CheckConstraint("chunk_index >= 0", name="ck_chunks_chunk_index_natural"),
        sa.CheckConstraint("row_version >= vector_version AND vector_version >= 1", name="ck_chunks_versions_ordered"),
        sa.ForeignKeyConstraint(["doc_id"], ["documents.doc_id"], name="fk_chunks_doc_id", ondelete="CASCADE"),
    )
    _create_index("chunks", "content_hash")
    _create_index("chunks", "doc_id")
    _create_index("chunks", "embedding_status")
    _create_index("chunks", "vector_level")

    _create_table(
        "chunk_tombstones",
        sa.Column("chunk_id", sa.String(64), nullable=False),
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("removed_in_version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("chunk_id", name="pk_chunk_tombstones"),
    )
    _create_index("chunk_tombstones", "doc_id")

    _create_table(
        "document_files",
        sa.Column("object_key", sa.String(256), nullable=False),
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("kind", _enum("ck_document_files_kind", "raw", "text", "table", "image"), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("staged_key", sa.String(256)),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("removed_in_version", sa.BigInteger),
        sa.PrimaryKeyConstraint("object_key", name="pk_document_files"),
        sa.CheckConstraint("size_bytes >= 0", name="ck_document_files_size_natural"),
    )
    _create_index("document_files", "doc_id")
    _create_index("document_files", "staged_key")

    _create_table(
        "sink_states",
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("sink", sa.String(32), nullable=False),
        sa.Column("desired_version", sa.BigInteger, nullable=False),
        sa.Column("applied_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("parts_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("parts_applied", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column(
            "state",
            _enum("ck_sink_states_state", "pending", "applied", "failed", "absent"),
            nullable=False,
            server_default="pending",
        ),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("marks", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text),
        sa.Column("requested_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("applied_at", _TIMESTAMP),
        sa.PrimaryKeyConstraint("doc_id", "sink", name="pk_sink_states"),
        sa.CheckConstraint("applied_version BETWEEN 0 AND desired_version", name="ck_sink_states_applied_was_desired"),
        sa.CheckConstraint(
            "state <> 'applied' OR applied_version = desired_version", name="ck_sink_states_applied_is_desired"
        ),
    )
    _create_index("sink_states", "sink", "state", "requested_at")

    _create_table(
        "outbox",
        sa.Column("id", _ID, nullable=False, autoincrement=True),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("lane", sa.SmallInteger, sa.Computed(lane, persisted=True), nullable=False),
        sa.Column("aggregate_type", sa.String(32), nullable=False, server_default="document"),
        sa.Column("aggregate_id", sa.String(64), nullable=False),
        sa.Column("aggregate_version", sa.BigInteger, nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("content_type", sa.String(64), nullable=False),
        sa.Column("headers", sa.JSON),
        sa.Column("payload", _PAYLOAD, nullable=False),
        sa.Column("payload_bytes", sa.Integer, sa.Computed("length(payload)", persisted=True), nullable=False),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.CheckConstraint("aggregate_version >= 1", name="ck_outbox_version_positive"),
    )
    _create_index("outbox", "lane", "id", "payload_bytes")

    _create_table(
        "outbox_dead_letters",
        sa.Column("id", _ID, nullable=False, autoincrement=True),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("outbox_id", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("aggregate_type", sa.String(32), nullable=False),
        sa.Column("aggregate_id", sa.String(64), nullable=False),
        sa.Column("aggregate_version", sa.BigInteger, nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("content_type", sa.String(64), nullable=False),
        sa.Column("headers", sa.JSON),
        sa.Column("payload", _PAYLOAD),
        sa.Column("kafka_position", sa.String(300)),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("dead_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column(
            "state",
            _enum("ck_outbox_dead_letters_state", "open", "replayed", "discarded", "superseded"),
            nullable=False,
            server_default="open",
        ),
        sa.Column("closed_at", _TIMESTAMP),
        sa.Column("closed_by", sa.String(64)),
        sa.Column("closed_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_outbox_dead_letters"),
        sa.UniqueConstraint("stage", "event_id", name="uq_outbox_dead_letters_stage_event_id"),
        sa.CheckConstraint(
            "payload IS NOT NULL OR kafka_position IS NOT NULL", name="ck_outbox_dead_letters_payload_kept"
        ),
        sa.CheckConstraint("(state = 'open') = (closed_at IS NULL)", name="ck_outbox_dead_letters_closed_dated"),
    )
    _create_index("outbox_dead_letters", "stage", "dead_at")
    _create_index("outbox_dead_letters", "state", "aggregate_id")
    _create_index("outbox_dead_letters", "closed_at")

    _create_table(
        "operation_logs",
        sa.Column("log_id", _ID, nullable=False, autoincrement=True),
        sa.Column(
            "operation_type",
            _enum("ck_operation_logs_operation_type", "INSERT", "UPDATE", "DELETE", "SYNC"),
            nullable=False,
        ),
        sa.Column("target_table", sa.String(64), nullable=False),
        sa.Column("target_id", sa.String(64), nullable=False),
        sa.Column("payload", sa.JSON),
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("transaction_context", sa.JSON),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("log_id", name="pk_operation_logs"),
    )
    _create_index("operation_logs", "created_at")
    _create_index("operation_logs", "target_id")

    _create_table(
        "processing_tasks",
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column(
            "task_type", _enum("ck_processing_tasks_task_type", "extract", "chunk", "embed", "sync"), nullable=False
        ),
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column(
            "status",
            _enum("ck_processing_tasks_task_status", "queued", "running", "completed", "failed", "superseded"),
            nullable=False,
            server_default="queued",
        ),
        sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("error_message", sa.Text),
        sa.Column("result_json", sa.JSON),
        sa.Column("started_at", _TIMESTAMP),
        sa.Column("completed_at", _TIMESTAMP),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("upload_id", sa.String(64)),
        sa.Column("input_json", sa.JSON),
        sa.Column("staged_key", sa.String(256)),
        sa.Column("file_sha256", sa.String(64)),
        sa.Column("version", sa.BigInteger),
        sa.Column("available_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("lease_until", _TIMESTAMP),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("task_id", name="pk_processing_tasks"),
    )
    _create_index("processing_tasks", "doc_id")
    _create_index("processing_tasks", "status", "completed_at")
    _create_index("processing_tasks", "upload_id")
    _create_index("processing_tasks", "staged_key")
    _create_index("processing_tasks", "status", "priority", "available_at", descending=("priority",))

    _create_table(
        "system_identity",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("system_id", sa.String(36), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("history_id", sa.String(36), nullable=False),
        sa.Column("server_uuid", sa.String(36), nullable=False),
        sa.Column("embedding_model", sa.String(128), nullable=False),
        sa.Column("first_embedding_model", sa.String(128), nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("lanes", sa.SmallInteger, nullable=False),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("id", name="pk_system_identity"),
        sa.CheckConstraint("id = 1", name="ck_system_identity_single_row"),
        sa.CheckConstraint("dimension BETWEEN 1 AND 32768", name="ck_system_identity_dimension_in_range"),
        sa.CheckConstraint("lanes BETWEEN 1 AND 256", name="ck_system_identity_lanes_in_range"),
        sqlite_autoincrement=False,
    )

    _create_table(
        "histories",
        sa.Column("number", _ID, nullable=False, autoincrement=True),
        sa.Column("history_id", sa.String(36), nullable=False),
        sa.Column("server_uuid", sa.String(36), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("started_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("checked_at", _TIMESTAMP),
        sa.PrimaryKeyConstraint("number", name="pk_histories"),
        sa.UniqueConstraint("history_id", name="uq_histories_history_id"),
    )

    _create_table(
        "reconcile_reports",
        sa.Column("id", _ID, nullable=False, autoincrement=True),
        sa.Column("started_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("ended_at", _TIMESTAMP),
        sa.Column("progress", sa.JSON),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_reconcile_reports"),
    )

    _create_table(
        "embedding_cache",
        sa.Column("cache_key", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("vector", _PAYLOAD, nullable=False),
        sa.Column("sparse", sa.LargeBinary),
        sa.Column("used_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("cache_key", name="pk_embedding_cache"),
        sqlite_autoincrement=False,
    )
    _create_index("embedding_cache", "used_at")

    _create_table(
        "sinks",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("required", sa.Boolean, nullable=False),
        sa.Column("takes_vectors", sa.Boolean, nullable=False),
        sa.Column("takes_files", sa.Boolean, nullable=False),
        sa.Column(
            "state", _enum("ck_sinks_state", "active", "joining", "leaving"), nullable=False, server_default="active"
        ),
        sa.Column("options", sa.JSON),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.PrimaryKeyConstraint("name", name="pk_sinks"),
    )
    _create_upkeep(now)


def _create_upkeep(now: sa.TextClause) -> None:
    """What retention and backups note."""
    _create_table(
        "retention_runs",
        sa.Column("policy", sa.String(32), nullable=False),
        sa.Column("due_at", _TIMESTAMP, nullable=False),
        sa.Column("ended_at", _TIMESTAMP),
        sa.Column("seconds", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("removed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("blocked", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("position", sa.String(256)),
        sa.PrimaryKeyConstraint("policy", name="pk_retention_runs"),
    )

    _create_table(
        "tidied_documents",
        sa.Column("doc_id", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("doc_id", name="pk_tidied_documents"),
    )

    _create_table(
        "backups",
        sa.Column("place", sa.String(16), nullable=False),
        sa.Column("asked_at", _TIMESTAMP, nullable=False, server_default=now),
        sa.Column("made_at", _TIMESTAMP),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("seconds", sa.Float),
        sa.PrimaryKeyConstraint("place", name="pk_backups"),
    )


def _enum(check_name: str, *values: str) -> sa.Enum:
    """ENUM on MySQL; elsewhere VARCHAR with a CHECK of this name."""
    return sa.Enum(*values, name=check_name, create_constraint=True)


def _create_table(name: str, *items: sa.schema.SchemaItem, sqlite_autoincrement: bool = True) -> None:
    options: dict[str, Any] = {
        "mysql_engine": "InnoDB",
        "mysql_charset": "utf8mb4",
        "mysql_collate": "utf8mb4_0900_bin",
        "sqlite_autoincrement": sqlite_autoincrement,
    }
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *items, **options)


def _create_index(table: str, *columns: str, mysql_length: int | None = None, descending: Collection[str] = ()) -> None:
    name = f"ix_{table}_{'_'.join(columns)}"
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        keys = [sa.text(f"{column} DESC") if column in descending else column for column in columns]
        options: dict[str, Any] = {} if mysql_length is None else {"mysql_length": mysql_length}
        op.create_index(name, table, keys, **options)
