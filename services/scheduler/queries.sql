-- What the scheduler asks of the read models, by key, a block of them at most (`{marks}`: a `?` for each).

-- name: crons
-- Every cron, a page at a time: nobody has to ask the log again when a paused one is resumed.
SELECT cron_id, canonical, timezone, start_at, end_at, state, cursor, since, undecided, version, revision, tzdata,
catch_up, catch_up_window_s
FROM crons WHERE cron_id > ? ORDER BY cron_id LIMIT ?;

-- name: cursors
-- How far another scheduler has come.
SELECT cron_id, cursor FROM crons WHERE cron_id IN ({marks});

-- name: plans
-- What the plans of these crons are made from.
SELECT cron_id, assistant_id, thread_id, user_id, on_run_completed, metadata, payload, revision
FROM crons WHERE cron_id IN ({marks});

-- name: thread_metadata
SELECT thread_id, metadata FROM threads WHERE thread_id IN ({marks});
