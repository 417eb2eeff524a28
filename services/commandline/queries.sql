-- What the commands ask of the read models, in processes of their own beside the server.

-- name: crons
-- All of them, in the order of the index (created_at, cron_id).
SELECT cron_id, thread_id, schedule, timezone, state, next_at, fired, skipped, missed
FROM crons ORDER BY created_at, cron_id;

-- name: cron
SELECT * FROM crons WHERE cron_id = ?;

-- name: audit
-- A page of what happened. One condition that is an equality has an index in the order of the positions;
-- without one it is a walk from `position` on.
SELECT position FROM audit WHERE {tests} AND position > ? ORDER BY position LIMIT ?;

-- name: deliveries
-- The newest ones, in the order of the index (requested_at, delivery_id).
SELECT * FROM deliveries ORDER BY requested_at DESC, delivery_id DESC LIMIT ?;

-- name: deliveries_in_state
SELECT * FROM deliveries WHERE state = ? ORDER BY requested_at DESC, delivery_id DESC LIMIT ?;
