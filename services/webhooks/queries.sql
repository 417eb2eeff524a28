-- What the sender of webhooks asks of the read models.

-- name: pending
-- Those that are not over, a page at a time, in the order of the index (state, requested_at, delivery_id).
SELECT delivery_id, host, next_at, requested_at FROM deliveries
WHERE state = 'pending' AND (requested_at, delivery_id) > (?, ?) ORDER BY requested_at, delivery_id LIMIT ?;
