-- What the log asks of either database. Two keys serve it: `notification_id`, the primary key, is the position;
-- UNIQUE (originator_id, originator_version) is the stream.

-- name: stream
-- One stream from a version on: a range of the stream's key.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = %s AND originator_version > %s AND originator_version <= %s
ORDER BY originator_version LIMIT %s;

-- name: stream_back
-- The same from its newest event: with LIMIT 1 one entry of the key, whatever the stream's length.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = %s AND originator_version > %s AND originator_version <= %s
ORDER BY originator_version DESC LIMIT %s;

-- name: range
-- The log from a position on: a range of the primary key.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id LIMIT %s;

-- name: topics
-- The same for some topics: the others are passed over undecoded. Who asks bounds the range.
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > %s AND notification_id <= %s AND topic >= %s AND topic < %s ORDER BY notification_id LIMIT %s;

-- name: head
-- The last entry of the primary key.
SELECT coalesce(max(notification_id), 0) FROM stored_events;

-- name: blob
SELECT data FROM blobs WHERE sha256 = %s;

-- name: leases
-- A range of the names: `prefix` up to `prefix` and the last character there is.
SELECT name, holder, until FROM leases WHERE name >= %s AND name < %s ORDER BY name;

-- name: cursor
SELECT position FROM cursors WHERE name = %s;
