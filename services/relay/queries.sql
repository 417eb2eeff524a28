-- What the relay asks of the read models, at start and after NATS may have lost something. Runs that are over
-- are in none of them: all say `phase != 'ended'` as the partial index on runs does, to the letter.

-- name: lanes
-- Threads that have runs which are not over; a lane is asked for its head afterwards.
SELECT DISTINCT thread_id FROM runs WHERE phase != 'ended' AND temporary = 0;

-- name: temporary
-- Those that are in no lane.
SELECT run_id, not_before FROM runs WHERE phase != 'ended' AND temporary = 1 AND cron_lane = 0;

-- name: cron_lanes
-- Crons whose runs take turns, and that have some which are not over.
SELECT DISTINCT cron_id FROM runs WHERE phase != 'ended' AND cron_lane = 1;
