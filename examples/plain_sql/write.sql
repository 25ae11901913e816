SET TRANSACTION ISOLATION LEVEL READ COMMITTED; -- no gap locks: writers of other documents do not wait
START TRANSACTION;

-- No other history starts before COMMIT. NULL on another server: then the next statement fails.
SELECT IF(server_uuid = @@server_uuid, history_id, NULL) FROM system_identity WHERE id = 1 FOR SHARE INTO @history;

INSERT INTO documents (doc_id, version, history_id, title, source_type, chunk_count)
VALUES (@doc_id, 1, IF(@history IS NULL, NULL, ''), @title, @source_type, 0) -- a new row has an empty history_id
ON DUPLICATE KEY UPDATE doc_id = documents.doc_id; -- changes nothing, locks the row

SELECT d.history_id = '', GREATEST(IF(d.history_id = '', 0, d.version), d.lost_version) + 1,
       JSON_OBJECT(
           'doc_id', d.doc_id, 'version', d.version, 'history_id', d.history_id, 'history_base', d.history_base,
           'lost_version', d.lost_version,
           'title', d.title, 'source_type', d.source_type, 'source_url', d.source_url, 'business_tag', d.business_tag,
           'domain', d.domain, 'language', d.language, 'file_size', d.file_size, 'page_count', d.page_count,
           'oss_key', d.oss_key, 'content_sha256', d.content_sha256, 'status', d.status, 'chunk_count', d.chunk_count,
           'embedding_model', d.embedding_model,
           'created_at', d.created_at, 'updated_at', d.updated_at, 'deleted_at', d.deleted_at)
FROM documents d WHERE d.doc_id = @doc_id FOR UPDATE
INTO @is_new, @version, @before;

UPDATE documents SET
    history_base = IF(@is_new, 0, IF(history_id = @history, history_base, version)),
    history_id = @history, version = @version, -- after the line that reads both
    title = @title, source_type = @source_type, business_tag = @business_tag, chunk_count = JSON_LENGTH(@chunks),
    embedding_model = @model, status = 'pending', updated_at = UTC_TIMESTAMP(6),
    oss_key = IF(deleted_at IS NULL, oss_key, NULL), -- its file went when it was deleted
    file_size = IF(deleted_at IS NULL, file_size, NULL),
    content_sha256 = IF(deleted_at IS NULL, content_sha256, NULL),
    deleted_at = NULL -- after those that look at it
WHERE doc_id = @doc_id;
INSERT INTO operation_logs (operation_type, target_table, target_id, payload, operator)
VALUES (IF(@is_new, 'INSERT', 'UPDATE'), 'documents', @doc_id, IF(@is_new, NULL, @before), @operator);

-- Every chunk that was there becomes a tombstone; those that are there again are lifted below.
INSERT INTO chunk_tombstones (chunk_id, doc_id, removed_in_version)
SELECT c.chunk_id, d.doc_id, d.version FROM documents d JOIN chunks c USING (doc_id) WHERE d.doc_id = @doc_id;
DELETE FROM chunks WHERE doc_id = @doc_id;

INSERT INTO chunks (chunk_id, doc_id, chunk_index, vector_level, modal_type, content, content_hash, char_count,
                    vector_version, row_version)
SELECT LEFT(SHA2(CONCAT_WS(0x00, doc_id, hash, ROW_NUMBER() OVER (PARTITION BY hash ORDER BY position) - 1), 256), 32),
       doc_id, position - 1, 'text', 'text', LEFT(content, 500), hash, CHAR_LENGTH(content), version, version
FROM (SELECT d.doc_id, d.version, c.position, c.content, SHA2(c.content, 256) AS hash
      FROM documents d JOIN JSON_TABLE(@chunks, '$[*]' COLUMNS (
          position FOR ORDINALITY, content TEXT PATH '$.content')) AS c
      WHERE d.doc_id = @doc_id) AS given;

DELETE FROM chunk_tombstones WHERE chunk_id IN (SELECT chunk_id FROM chunks WHERE doc_id = @doc_id);

INSERT INTO outbox (event_id, aggregate_id, aggregate_version, event_type, content_type, payload)
SELECT UUID(), d.doc_id, d.version, 'rag.document.upserted.v1', 'application/json', JSON_OBJECT(
    'doc_id', d.doc_id, 'version', d.version, 'history_id', d.history_id,
    'embedding_model', @model, 'dimension', CAST(@dimension AS UNSIGNED),
    'title', d.title, 'source_type', d.source_type, 'business_tag', COALESCE(d.business_tag, ''),
    'oss_key', COALESCE(d.oss_key, ''), 'chunk_count', d.chunk_count,
    'chunks', (SELECT COALESCE(JSON_ARRAYAGG(JSON_OBJECT('chunk_id', c.chunk_id, 'content_hash', c.content_hash,
                                                         'content', g.content, 'vector', g.vector)), JSON_ARRAY())
               FROM chunks c JOIN JSON_TABLE(@chunks, '$[*]' COLUMNS (position FOR ORDINALITY,
                   content TEXT PATH '$.content', vector MEDIUMTEXT PATH '$.vector')) AS g
                   ON g.position = c.chunk_index + 1
               WHERE c.doc_id = d.doc_id),
    'files', (SELECT COALESCE(JSON_ARRAYAGG(JSON_OBJECT('object_key', object_key, 'content_type', content_type,
                  'sha256', sha256, 'size_bytes', size_bytes, 'staged_key', staged_key)), JSON_ARRAY())
              FROM document_files f
              WHERE f.doc_id = d.doc_id AND removed_in_version IS NULL AND staged_key IS NOT NULL),
    'tombstones', (SELECT COALESCE(JSON_ARRAYAGG(chunk_id), JSON_ARRAY())
                   FROM chunk_tombstones t WHERE t.doc_id = d.doc_id),
    'removed_files', (SELECT COALESCE(JSON_ARRAYAGG(object_key), JSON_ARRAY())
                      FROM document_files f WHERE f.doc_id = d.doc_id AND removed_in_version IS NOT NULL))
FROM documents d WHERE d.doc_id = @doc_id;

COMMIT;
