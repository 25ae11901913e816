SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
START TRANSACTION;
SELECT IF(server_uuid = @@server_uuid, history_id, NULL) FROM system_identity WHERE id = 1 FOR SHARE INTO @history;
SET @version = NULL; -- stays NULL for a document that does not exist
SELECT GREATEST(d.version, d.lost_version) + 1,
       JSON_OBJECT(
           'doc_id', d.doc_id, 'version', d.version, 'history_id', d.history_id, 'history_base', d.history_base,
           'lost_version', d.lost_version,
           'title', d.title, 'source_type', d.source_type, 'source_url', d.source_url, 'business_tag', d.business_tag,
           'domain', d.domain, 'language', d.language, 'file_size', d.file_size, 'page_count', d.page_count,
           'oss_key', d.oss_key, 'content_sha256', d.content_sha256, 'status', d.status, 'chunk_count', d.chunk_count,
           'embedding_model', d.embedding_model,
           'created_at', d.created_at, 'updated_at', d.updated_at, 'deleted_at', d.deleted_at)
FROM documents d WHERE d.doc_id = @doc_id FOR UPDATE
INTO @version, @before;

UPDATE documents SET history_base = IF(history_id = @history, history_base, version), history_id = @history,
                     version = @version, status = 'deleting', chunk_count = 0,
                     deleted_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6)
WHERE doc_id = @doc_id;
INSERT INTO operation_logs (operation_type, target_table, target_id, payload, operator)
SELECT 'DELETE', 'documents', doc_id, @before, @operator FROM documents WHERE doc_id = @doc_id;

INSERT INTO chunk_tombstones (chunk_id, doc_id, removed_in_version)
SELECT c.chunk_id, d.doc_id, d.version FROM documents d JOIN chunks c USING (doc_id) WHERE d.doc_id = @doc_id;
DELETE FROM chunks WHERE doc_id = @doc_id;
UPDATE document_files f JOIN documents d USING (doc_id) SET f.removed_in_version = d.version
WHERE d.doc_id = @doc_id AND f.removed_in_version IS NULL;

INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)
SELECT UUID(), d.doc_id, d.version, 'rag.document.deleted.v1', 'application/json', JSON_OBJECT(
    'doc_id', d.doc_id, 'version', d.version, 'history_id', d.history_id,
    'tombstones', (SELECT COALESCE(JSON_ARRAYAGG(chunk_id), JSON_ARRAY())
                   FROM chunk_tombstones t WHERE t.doc_id = d.doc_id),
    'removed_files', (SELECT COALESCE(JSON_ARRAYAGG(object_key), JSON_ARRAY())
                      FROM document_files f WHERE f.doc_id = d.doc_id))
FROM documents d WHERE d.doc_id = @doc_id;
COMMIT;
