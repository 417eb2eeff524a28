-- What the log asks of its file. Two keys serve all of it: `notification_id`, the primary key, is the
-- position; UNIQUE (originator_id, originator_version) is the stream.

-- name: stream
-- One stream from a version on: a range of the stream's key.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = ? AND originator_version > ? AND originator_version <= ?
ORDER BY originator_version LIMIT ?;

-- name: stream_back
-- The same from its newest event: with LIMIT 1 one entry of the key, whatever the stream's length.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = ? AND originator_version > ? AND originator_version <= ?
ORDER BY originator_version DESC LIMIT ?;

-- name: range
-- The log from a position on: a range of the primary key.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > ? AND notification_id <= ? ORDER BY notification_id LIMIT ?;

-- name: some_topics
-- The same, as the library asks for some topics by their names.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > ? AND notification_id <= ? AND topic IN (SELECT value FROM json_each(?)) ORDER BY notification_id LIMIT ?;

-- name: topics
-- The same for some topics: the others are passed over undecoded. Who asks bounds the range.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > ? AND notification_id <= ? AND topic >= ? AND topic < ? ORDER BY notification_id LIMIT ?;

-- name: at
-- One event by its position.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id = ?;

-- name: head
-- The last entry of the primary key.
SELECT coalesce(max(notification_id), 0) FROM stored_events;

-- name: version
-- The last entry of the stream's key; asked for each append and each expectation.
SELECT coalesce(max(originator_version), 0) FROM stored_events WHERE originator_id = ?;

-- name: append
INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?);

-- name: keep_blob
-- Named by its digest, so that twice is once.
INSERT OR IGNORE INTO blobs VALUES (?, ?);

-- name: blob
SELECT data FROM blobs WHERE sha256 = ?;

-- name: leases
-- A range of the names: `prefix` up to `prefix` and the last character there is.
SELECT name, holder, until FROM leases WHERE name >= ? AND name < ? ORDER BY name;

-- name: take_lease
-- Whoever holds it renews it; anybody takes it when it is over.
INSERT INTO leases VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until < ? RETURNING name, holder, until;

-- name: drop_lease
DELETE FROM leases WHERE name = ? AND holder = ?;

-- name: cursor
SELECT position FROM cursors WHERE name = ?;

-- name: move_cursor
-- Never back: of two followers of one name the one that is further says how far they are.
INSERT INTO cursors VALUES (?, ?) ON CONFLICT (name) DO UPDATE
SET position = max(position, excluded.position);
