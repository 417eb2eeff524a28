-- What the log asks of PostgreSQL, beside rows.sql. Sessions have enable_seqscan off: a plan made for a young table would stay.

-- name: newest
-- One entry of the key for each stream, in one round trip.
SELECT event.* FROM unnest(%b::uuid[]) AS asked (stream) CROSS JOIN LATERAL (
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE originator_id = asked.stream ORDER BY originator_version DESC LIMIT 1) AS event;

-- name: some_topics
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id > %s AND notification_id <= %s AND topic = ANY(%b::text[]) ORDER BY notification_id LIMIT %s;

-- name: at
SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
WHERE notification_id = ANY(%b::bigint[]) ORDER BY notification_id;

-- name: append
SELECT ledger_append(%b::uuid[], %b::int4[], %b::uuid[], %b::int4[], %b::text[], %b::bytea[], %b::text[], %b::bytea[]);

-- name: lock
SELECT ledger_lock();

-- name: versions
SELECT asked.stream, coalesce((SELECT originator_version FROM stored_events WHERE originator_id = asked.stream
ORDER BY originator_version DESC LIMIT 1), 0) FROM unnest(%b::uuid[]) AS asked (stream);

-- name: take_lease
-- On the database's clock. Whoever holds it renews it; anybody takes it when it is over.
INSERT INTO leases VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s)) ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until < clock_timestamp() RETURNING name, holder, until;

-- name: drop_lease
DELETE FROM leases WHERE name = %s AND holder = %s RETURNING name, holder, until;

-- name: move_cursor
-- Never back: of two followers of one name the one that is further says how far they are.
INSERT INTO cursors VALUES (%s, %s) ON CONFLICT (name) DO UPDATE
SET position = greatest(cursors.position, excluded.position) RETURNING position;

-- name: clock
SELECT clock_timestamp();
