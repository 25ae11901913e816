SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
START TRANSACTION;
UPDATE system_identity SET history_id = UUID(), server_uuid = @@server_uuid
WHERE id = 1 AND server_uuid <> @@server_uuid; -- waits for the writes under way
SET @started = ROW_COUNT();
INSERT INTO histories (history_id, server_uuid, reason)
SELECT history_id, server_uuid, 'another server' FROM system_identity WHERE id = 1 AND @started = 1;
COMMIT;
