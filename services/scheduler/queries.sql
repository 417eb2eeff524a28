-- What the scheduler asks of the read models, by key, a block of them at most (`{marks}`: a `?` for each).

-- name: crons
-- Every cron, a page at a time: nobody has to ask the log again when a paused one is resumed.
SELECT cron_id, canonical, timezone, start_at, end_at, state, cursor, since, undecided, version, revision, tzdata,
wall, catch_up, catch_up_window_s, paused_until, jitter_s, max_runs, counted, pause_after_failures, failures
FROM crons WHERE cron_id > ? ORDER BY cron_id LIMIT ?;

-- name: crons_of
-- The same of these.
SELECT cron_id, canonical, timezone, start_at, end_at, state, cursor, since, undecided, version, revision, tzdata,
wall, catch_up, catch_up_window_s, paused_until, jitter_s, max_runs, counted, pause_after_failures, failures
FROM crons WHERE cron_id IN ({marks});

-- name: active_cursors
-- How far each is decided, a page at a time: once when partitions are taken over.
SELECT cron_id, cursor FROM crons WHERE cron_id > ? AND state = 'active' ORDER BY cron_id LIMIT ?;

-- name: cursors
-- How far another scheduler has come, and how many runs there are by then.
SELECT cron_id, cursor, counted FROM crons WHERE cron_id IN ({marks});

-- name: failing
-- Those of which as many runs in a row have failed as they allow.
SELECT cron_id, version, failures FROM crons
WHERE cron_id IN ({marks}) AND state = 'active' AND failures >= pause_after_failures;

-- name: backfills
-- Those that go on.
SELECT backfill_id FROM backfills WHERE state = 'running' AND backfill_id > ? ORDER BY backfill_id LIMIT ?;

-- name: plans
-- What the plans of these crons are made from.
SELECT cron_id, assistant_id, thread_id, user_id, on_run_completed, metadata, payload, revision, overlap
FROM crons WHERE cron_id IN ({marks});

-- name: thread_metadata
SELECT thread_id, metadata FROM threads WHERE thread_id IN ({marks});
