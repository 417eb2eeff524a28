-- What the log asks of its file, beside rows.sql.

-- name: some_topics
-- A range of the log, as the library asks for some topics by their names.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > ? AND notification_id <= ? AND topic IN (SELECT value FROM json_each(?)) ORDER BY notification_id LIMIT ?;

-- name: at
-- Events by their positions, one entry of the primary key each.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id IN (SELECT value FROM json_each(?)) ORDER BY notification_id;

-- name: version
-- The last entry of the stream's key; asked for each append and each expectation.
SELECT coalesce(max(originator_version), 0) FROM stored_events WHERE originator_id = ?;

-- name: append
INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?);

-- name: keep_blob
-- Named by its digest, so that twice is once.
INSERT OR IGNORE INTO blobs VALUES (?, ?);

-- name: take_lease
-- Whoever holds it renews it; anybody takes it when it is over.
INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until < ? RETURNING name, holder, until;

-- name: drop_lease
DELETE FROM leases WHERE name = ? AND holder = ?;

-- name: move_cursor
-- Never back: of two followers of one name the one that is further says how far they are.
INSERT INTO cursors VALUES (?, ?) ON CONFLICT (name) DO UPDATE
SET position = max(position, excluded.position);
