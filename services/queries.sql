-- What services ask at their start.

-- name: default_assistants
SELECT assistant_id FROM assistants WHERE system = 1;

-- name: graphs
-- The graphs that assistants have, and how many crons wait for each: once, at the start, so it may look at all crons.
-- The plus: by the index of `enabled` it would look at all of them again for each assistant.
SELECT a.graph_id, count(c.cron_id) AS crons
FROM assistants a LEFT JOIN crons c ON c.assistant_id = a.assistant_id AND +c.enabled = 1
GROUP BY a.graph_id;
