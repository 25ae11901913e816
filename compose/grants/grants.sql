-- What each process may do in MySQL, and nothing else. Run it after `rag-outbox init`, as a user that may create users:
--
--     mysql --user=root --password rag_outbox < compose/grants/grants.sql
--
-- The tables are those of the database that the client is in. The users come without a password, locked; open each with
--     ALTER USER 'rag-writer' IDENTIFIED BY '…' ACCOUNT UNLOCK;
-- For users of another name replace their prefix: sed "s/'rag-/'mine-/g" compose/grants/grants.sql | mysql … my_database
-- Run it again after an upgrade that adds tables; repeating it is harmless.
--
-- `rag-outbox init` needs all rights on the database, and so does a person who repairs it: GRANT ALL ON rag_outbox.*.

CREATE USER IF NOT EXISTS 'rag-writer' ACCOUNT LOCK;
CREATE USER IF NOT EXISTS 'rag-relay' ACCOUNT LOCK;
CREATE USER IF NOT EXISTS 'rag-consumer' ACCOUNT LOCK;
CREATE USER IF NOT EXISTS 'rag-monitor' ACCOUNT LOCK;
CREATE USER IF NOT EXISTS 'rag-exporter' ACCOUNT LOCK;
CREATE USER IF NOT EXISTS 'rag-backup' ACCOUNT LOCK;

-- Every process reads the revision of the tables, the identity of the system and its sinks.
GRANT SELECT ON rag_outbox_revision TO 'rag-writer', 'rag-relay', 'rag-consumer', 'rag-monitor';
GRANT SELECT ON system_identity TO 'rag-writer', 'rag-relay', 'rag-consumer', 'rag-monitor';
GRANT SELECT ON sinks TO 'rag-writer', 'rag-relay', 'rag-consumer', 'rag-monitor';

-- The writer: `rag-outbox write`, `ingest`, `process` and `delete`, and every service that imports `producer` or writes SQL itself.
GRANT SELECT, INSERT, UPDATE ON documents TO 'rag-writer'; -- deleted documents stay as rows
GRANT SELECT, INSERT, UPDATE, DELETE ON chunks TO 'rag-writer';
GRANT SELECT, INSERT, DELETE ON chunk_tombstones TO 'rag-writer'; -- DELETE: the chunk exists again
GRANT SELECT, INSERT, UPDATE, DELETE ON document_files TO 'rag-writer';
GRANT SELECT, INSERT, UPDATE ON sink_states TO 'rag-writer';
GRANT INSERT, SELECT (log_id, operation_type, target_table, target_id, transaction_context) ON operation_logs
    TO 'rag-writer'; -- it can append to the log, not change it; SELECT: `adopt` skips what others wrote
GRANT UPDATE (history_id, server_uuid) ON system_identity TO 'rag-writer'; -- after a failover: a new history
GRANT INSERT ON histories TO 'rag-writer';
GRANT SELECT, INSERT, UPDATE, DELETE ON embedding_cache TO 'rag-writer'; -- only with RAG_OUTBOX_EMBEDDER
GRANT SELECT, INSERT, UPDATE ON processing_tasks TO 'rag-writer'; -- `ingest --queue`, and `rag-outbox process`
GRANT SELECT, INSERT ON outbox TO 'rag-writer'; -- SELECT: vectors of pending events, and how many there are

-- The relay: `rag-outbox relay`. Of documents it sees only ids, versions and marks: it checks each new history.
GRANT SELECT, DELETE ON outbox TO 'rag-relay';
GRANT INSERT, UPDATE, SELECT (stage, event_id, attempts, dead_at, state) ON outbox_dead_letters
    TO 'rag-relay'; -- UPDATE: one that died before
GRANT SESSION_VARIABLES_ADMIN ON *.* TO 'rag-relay'; -- optional: without it, the binlog contains each payload twice

GRANT SELECT (doc_id, version, history_id, history_base, lost_version, status, chunk_count, deleted_at),
    UPDATE (status, lost_version),
    INSERT (doc_id, version, history_id, lost_version, title, source_type, chunk_count, status, deleted_at)
    ON documents TO 'rag-relay'; -- INSERT: a document that was lost, as a deleted one
GRANT SELECT (doc_id), UPDATE (milvus_synced) ON chunks TO 'rag-relay';
GRANT INSERT, SELECT (object_key) ON document_files TO 'rag-relay'; -- files of a lost version, to be removed
GRANT SELECT, INSERT, UPDATE ON sink_states TO 'rag-relay';
GRANT SELECT (doc_id, status) ON processing_tasks TO 'rag-relay'; -- the status of a document whose task failed
GRANT SELECT, INSERT, UPDATE (checked_at) ON histories TO 'rag-relay';
GRANT UPDATE (history_id, server_uuid) ON system_identity TO 'rag-relay'; -- after a failover: a new history

-- The consumer: `rag-outbox consume`, for any sink. It never sees the outbox, and in documents and chunks it can change
-- only the marks.
GRANT SELECT, UPDATE (status, lost_version),
    INSERT (doc_id, version, history_id, lost_version, title, source_type, chunk_count, status, deleted_at)
    ON documents TO 'rag-consumer'; -- INSERT: a document that was lost, as a deleted one
GRANT SELECT, UPDATE (milvus_synced) ON chunks TO 'rag-consumer';
GRANT SELECT, DELETE ON chunk_tombstones TO 'rag-consumer';
GRANT SELECT, INSERT, DELETE ON document_files TO 'rag-consumer'; -- INSERT: files of a lost version, to be removed
GRANT SELECT, INSERT, UPDATE ON sink_states TO 'rag-consumer';
GRANT INSERT, UPDATE, SELECT (stage, event_id, attempts, dead_at, state) ON outbox_dead_letters
    TO 'rag-consumer'; -- UPDATE: one that died before
GRANT SELECT (doc_id, status, staged_key, upload_id) ON processing_tasks
    TO 'rag-consumer'; -- the status of a document whose task failed; the sweep of staged files spares those of tasks
GRANT SELECT, INSERT, UPDATE ON retention_runs TO 'rag-consumer'; -- consume minio: the retention of archives
GRANT SELECT, INSERT, UPDATE ON tidied_documents TO 'rag-consumer';
GRANT SELECT, INSERT, UPDATE, DELETE ON embedding_cache TO 'rag-consumer'; -- only with `rebuild milvus --embedder`

-- The monitor: `rag-outbox monitor`. It counts, closes superseded dead letters, removes what retention does not keep, and
-- sees no title, no text and no payload.
GRANT SELECT (id, payload_bytes, created_at) ON outbox TO 'rag-monitor';
GRANT SELECT (doc_id, version, lost_version, status, deleted_at) ON documents TO 'rag-monitor';
GRANT SELECT (doc_id, sink, state, applied_version, requested_at) ON sink_states TO 'rag-monitor';
GRANT SELECT (id, stage, aggregate_id, aggregate_version, dead_at, state, closed_at),
    UPDATE (state, closed_at, closed_by, closed_reason), DELETE
    ON outbox_dead_letters TO 'rag-monitor'; -- UPDATE: it closes those that are superseded
GRANT SELECT (log_id, created_at), DELETE ON operation_logs TO 'rag-monitor';
GRANT SELECT (task_id, status, available_at, completed_at, created_at), DELETE ON processing_tasks TO 'rag-monitor';
GRANT UPDATE (title, source_url, business_tag, domain, language, file_size, page_count, oss_key, content_sha256)
    ON documents TO 'rag-monitor'; -- it empties the rows of deleted documents
GRANT SELECT (marks), UPDATE (state, applied_version, parts_version, parts_applied, attempts, requested_at, last_error,
    marks), DELETE ON sink_states TO 'rag-monitor'; -- UPDATE: optional sinks that have not confirmed a deletion
GRANT SELECT (doc_id), DELETE ON chunks TO 'rag-monitor'; -- of deleted documents
GRANT SELECT (doc_id), DELETE ON chunk_tombstones TO 'rag-monitor';
GRANT SELECT (doc_id), DELETE ON document_files TO 'rag-monitor';
GRANT SELECT, INSERT, UPDATE ON tidied_documents TO 'rag-monitor';
GRANT SELECT, INSERT, UPDATE ON retention_runs TO 'rag-monitor';
GRANT SELECT (number, checked_at) ON histories TO 'rag-monitor';
GRANT SELECT ON backups TO 'rag-monitor';
GRANT PROCESS ON *.* TO 'rag-monitor'; -- optional: without it, rag_outbox_history_list_length is missing

-- The exporter of MySQL's own metrics for Prometheus. It sees no table.
GRANT PROCESS, REPLICATION CLIENT ON *.* TO 'rag-exporter';

-- Backups: `rag-outbox backup create`. It reads every table but the embedding cache, and changes one. A restore, and `backup verify`, need all
-- rights on databases of their own: GRANT ALL ON `rag\_outbox\_restore\_%`.* and `rag\_outbox\_verify\_%`.*
GRANT SELECT ON rag_outbox_revision TO 'rag-backup';
GRANT SELECT ON system_identity TO 'rag-backup';
GRANT SELECT ON sinks TO 'rag-backup';
GRANT SELECT ON chunk_tombstones TO 'rag-backup';
GRANT SELECT ON chunks TO 'rag-backup';
GRANT SELECT ON document_files TO 'rag-backup';
GRANT SELECT ON documents TO 'rag-backup';
GRANT SELECT ON histories TO 'rag-backup';
GRANT SELECT ON operation_logs TO 'rag-backup';
GRANT SELECT ON outbox TO 'rag-backup';
GRANT SELECT ON outbox_dead_letters TO 'rag-backup';
GRANT SELECT ON processing_tasks TO 'rag-backup';
GRANT SELECT ON reconcile_reports TO 'rag-backup';
GRANT SELECT ON retention_runs TO 'rag-backup';
GRANT SELECT ON sink_states TO 'rag-backup';
GRANT SELECT ON tidied_documents TO 'rag-backup';
GRANT SELECT, INSERT, UPDATE ON backups TO 'rag-backup'; -- INSERT, UPDATE: it notes the newest backup there
GRANT LOCK TABLES ON * TO 'rag-backup'; -- optional: without it, a backup does not count its rows
GRANT REPLICATION CLIENT ON *.* TO 'rag-backup'; -- optional: without it, the position of the binlog is not noted
