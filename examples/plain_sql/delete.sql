SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
START TRANSACTION;
SELECT history_id FROM system_identity WHERE id = 1 FOR SHARE INTO @history;
UPDATE documents SET history_base = IF(history_id = @history, history_base, version), history_id = @history,
                     version = version + 1, status = 'deleting', chunk_count = 0,
                     deleted_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6)
WHERE doc_id = @doc_id;

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
