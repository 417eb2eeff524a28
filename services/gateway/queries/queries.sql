-- What the gateway asks of the read models. Searches are put together from the first blocks (`{table}` and
-- the like are ours, never a client's): either an index finds the few rows that one of the conditions has,
-- or an index is walked in the order asked for until the page is full. tests/conformance/test_query_plans.py
-- has the plan of each.

-- name: few
-- How many rows a condition has, as far as it matters: counted in its index, up to a bound.
SELECT count(*) AS n FROM (SELECT 1 FROM {source} LIMIT ?) AS few;

-- name: gather
-- The few rows that {driver} finds by its index, whose other conditions are tested on each. The pluses keep
-- other indexes, and the sort order's, out of it.
SELECT {key} AS id FROM {table} WHERE {driver} AND {tests} ORDER BY {order};

-- name: walk
-- An index in the order asked for, row by row, until the page is full.
SELECT {key} AS id FROM {table} WHERE {tests} ORDER BY {order} LIMIT ? OFFSET ?;

-- name: count_all
-- Without a condition, even `true`: then pages are counted, not rows.
SELECT count(*) AS n FROM {table};

-- name: count
SELECT count(*) AS n FROM {table} WHERE {tests};

-- name: up_to
-- The same up to a bound.
SELECT count(*) AS n FROM (SELECT 1 FROM {table} WHERE {tests} LIMIT ?) AS few;

-- name: of_facet
-- A condition: the owners of a facet, and of those that have too many facets to be told by them.
{key} IN (SELECT substr(facet, 17) FROM {facets} WHERE facet >= ? AND facet < ?
UNION ALL SELECT substr(facet, 17) FROM {facets} WHERE facet >= ? AND facet < ?);

-- name: has_facet
-- A condition: the row has that facet. By the key of the facets' table.
EXISTS (SELECT 1 FROM {facets} AS own WHERE own.facet = CAST(? || {owner} AS BLOB));

-- name: count_facets
-- How many have a facet and others: all of it in the facets' table.
SELECT count(*) AS n FROM {facets} WHERE facet >= ? AND facet < ? AND {tests};

-- name: row
-- One row by the key of its table.
SELECT * FROM {table} WHERE {key} = ?;

-- name: thread_without_values
-- A row as a search shows it when it was not asked for what may be large.
SELECT thread_id, user_id, metadata, status, interrupts, error, created_at, updated_at, state_updated_at,
NULL AS "values" FROM threads WHERE thread_id = ?;

-- name: cron_without_payload
SELECT cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_at, next_at, enabled,
on_run_completed, metadata, CASE WHEN overlap IS NULL THEN payload END AS payload, created_at, updated_at, state,
revision, fired, skipped, missed, tzdata, note, catch_up, catch_up_window_s, start_at, paused_until, jitter_s,
max_runs, counted, pause_after_failures, failures, overlap FROM crons WHERE cron_id = ?;

-- name: run_without_values
SELECT run_id, thread_id, assistant_id, user_id, status, metadata, NULL AS kwargs, multitask_strategy, error,
message, NULL AS output, cancel_reason, created_at, updated_at FROM runs WHERE run_id = ?;

-- name: runs_of_thread
-- In the order of the index (thread_id, hidden, created_at, run_id).
SELECT run_id AS id FROM runs WHERE thread_id = ? AND hidden = 0
ORDER BY created_at DESC, run_id DESC LIMIT ? OFFSET ?;

-- name: runs_of_thread_by_status
-- The same with the status in front: a status that few runs have is not looked for among all.
SELECT run_id AS id FROM runs WHERE thread_id = ? AND hidden = 0 AND status = ?
ORDER BY created_at DESC, run_id DESC LIMIT ? OFFSET ?;

-- name: runs_of_all
-- Of all threads, behind a run: in the order of the index.
SELECT run_id, created_at FROM runs WHERE hidden = 0 AND (created_at, run_id) < (?, ?)
ORDER BY created_at DESC, run_id DESC LIMIT ?;

-- name: runs_by_status
SELECT run_id, created_at FROM runs WHERE hidden = 0 AND status = ? AND (created_at, run_id) < (?, ?)
ORDER BY created_at DESC, run_id DESC LIMIT ?;

-- name: runs_of_cron
SELECT run_id, created_at FROM runs WHERE hidden = 0 AND cron_id = ? AND (created_at, run_id) < (?, ?)
ORDER BY created_at DESC, run_id DESC LIMIT ?;

-- name: runs_of_cron_by_status
SELECT run_id, created_at FROM runs WHERE hidden = 0 AND cron_id = ? AND status = ?
AND (created_at, run_id) < (?, ?) ORDER BY created_at DESC, run_id DESC LIMIT ?;

-- name: active_runs
-- Those that may be stopped: the partial index holds the runs that are not over, and no others. The
-- plus: those that are not hidden are nearly all.
SELECT run_id, thread_id, status FROM runs WHERE phase != 'ended' AND +hidden = 0 AND cancel_requested = '';

-- name: active_runs_of_assistant
-- By the partial index on assistants of runs that are not over.
SELECT run_id, thread_id FROM runs WHERE assistant_id = ? AND phase != 'ended';

-- name: not_ended
-- Whether a run is there and not over. One whose thread is deleted (hidden = 2) is not there for anybody.
SELECT thread_id FROM runs WHERE run_id = ? AND phase != 'ended' AND hidden < 2;

-- name: happened
-- What has happened since a position: a range of the audit's key. It ends where the read models do.
SELECT position, topic, run_id, thread_id FROM audit WHERE position > ? ORDER BY position;

-- name: happened_before
-- The position up to which everything happened before an instant (microseconds): the last entry of the index of
-- instants, in which those of one instant are in the order of their positions.
SELECT position FROM audit WHERE at <= ? ORDER BY at DESC, position DESC LIMIT 1;

-- name: happened_on_thread
-- The same of one thread, a part at a time: a range of its index. The plus keeps out the audit's key.
SELECT position, topic, run_id, at FROM audit WHERE thread_id = ? AND position > ? ORDER BY position LIMIT ?;

-- name: happened_to_run
-- All that happened to a run, which is little: by its index.
SELECT run_id, position, topic, at FROM audit WHERE run_id = ? ORDER BY position;

-- name: at_work_on_thread
-- The run that works on a thread: by the partial index of runs that are not over.
SELECT run_id FROM runs WHERE temporary IN (0, 1) AND thread_id = ? AND phase != 'ended' AND phase = 'running';

-- name: happened_until
-- The last entry of that key.
SELECT coalesce(max(position), 0) AS position FROM audit;

-- name: recorded
-- What became of occurrences in a span, of all crons: by the index of its instants, until the page is full.
SELECT * FROM occurrences WHERE scheduled_for >= ? AND scheduled_for < ? ORDER BY scheduled_for, position LIMIT ?;

-- name: recorded_of_cron
-- The same of one cron.
SELECT * FROM occurrences WHERE cron_id = ? AND scheduled_for >= ? AND scheduled_for < ?
ORDER BY scheduled_for, position LIMIT ?;

-- name: occurrences_of_cron
-- From an instant on, behind an occurrence: in the order of the index (cron_id, scheduled_for), whose ties are
-- in the order of their positions.
SELECT * FROM occurrences WHERE cron_id = ? AND scheduled_for >= ? AND (scheduled_for, position) < (?, ?)
ORDER BY scheduled_for DESC, position DESC LIMIT ? OFFSET ?;

-- name: occurrences_by_status
SELECT * FROM occurrences WHERE cron_id = ? AND status = ? AND scheduled_for >= ?
AND (scheduled_for, position) < (?, ?) ORDER BY scheduled_for DESC, position DESC LIMIT ? OFFSET ?;

-- name: due_until
-- The crons that are due first: so many occurrences that are to come are of no more crons. The plus: those that
-- are due are few beside those that are enabled.
SELECT cron_id, thread_id, schedule, canonical, timezone, start_at, end_at, next_at, revision, tzdata, jitter_s,
max_runs, counted FROM crons
WHERE next_at < ? AND (+enabled = 1 OR paused_until IS NOT NULL) ORDER BY next_at ASC NULLS FIRST, cron_id
LIMIT ?;

-- name: due_of_cron
SELECT cron_id, thread_id, schedule, canonical, timezone, start_at, end_at, next_at, revision, tzdata, jitter_s,
max_runs, counted FROM crons
WHERE cron_id = ? AND next_at < ? AND (enabled = 1 OR paused_until IS NOT NULL) LIMIT ?;

-- name: crons_of_thread
SELECT cron_id FROM crons WHERE thread_id = ?;

-- name: crons_of_assistant
-- The order says which of two indexes that would do: the smaller one.
SELECT cron_id FROM crons WHERE assistant_id = ? ORDER BY cron_id;

-- name: crons_of_user
-- How many there are, no further than the cap that is asked about.
SELECT count(*) AS n FROM (SELECT 1 FROM crons WHERE user_id = ? LIMIT ?) AS few;

-- name: assistants_behind
-- Oldest first, behind an assistant: in the order of the index (created_at, assistant_id).
SELECT * FROM assistants WHERE (created_at, assistant_id) > (?, ?) ORDER BY created_at, assistant_id LIMIT ?;
