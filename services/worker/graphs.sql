-- What LangGraph's tables in the schema `graphs` have beside them: claims of threads, and the way back of a run.
-- Functions, because each is one statement of a child: a node that blocks the child's loop holds no transaction open.

CREATE TABLE cronledger_claims (thread_id text PRIMARY KEY, token bigint NOT NULL);

CREATE TABLE cronledger_touched (
    thread_id text NOT NULL,
    run_id text NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id)
);

CREATE TABLE cronledger_kept (
    run_id text NOT NULL,
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    channel text NOT NULL,
    type text,
    blob bytea NOT NULL,
    task_path text NOT NULL,
    PRIMARY KEY (thread_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);

-- The thread for its caller alone (727028 keeps the keys apart from other advisory locks), until the transaction ends. Waits for writes under way; whoever is at one for
-- longer than that (a process that is stopped in the middle of it) loses its connection, and with it the write.
CREATE FUNCTION cronledger_alone(thread text, patience_ms integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    key bigint := hashtextextended(thread, 727028);
BEGIN
    PERFORM set_config('lock_timeout', patience_ms::text, true);
    BEGIN
        PERFORM pg_advisory_xact_lock(key);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM pg_terminate_backend(pid) FROM pg_locks
            WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND pid <> pg_backend_pid()
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND classid = ((key >> 32) & 4294967295)::oid AND objid = (key & 4294967295)::oid AND objsubid = 1;
        PERFORM pg_advisory_xact_lock(key);
    END;
END $$;

-- First in every transaction that writes as an attempt: nobody takes the thread before it ends.
CREATE FUNCTION cronledger_fence(thread text, mine bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(thread, 727028));
    PERFORM FROM cronledger_claims WHERE thread_id = thread AND token = mine;  -- a snapshot after the lock
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a later attempt has the thread' USING ERRCODE = 'CL001';
    END IF;
END $$;

-- Whether the thread has checkpoints; what is kept for others of its runs is dropped.
CREATE FUNCTION cronledger_begin(thread text, run text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM cronledger_touched WHERE thread_id = thread AND run_id <> run;
    DELETE FROM cronledger_kept WHERE thread_id = thread AND run_id <> run;
    RETURN EXISTS (SELECT FROM checkpoints WHERE thread_id = thread);
END $$;

-- Keep the writes at a checkpoint, if it is there and none of the run's own; once per run, whatever its attempts.
-- `mine` is null for whoever has not claimed the thread.
CREATE FUNCTION cronledger_keep(thread text, run text, ns text, id text, mine bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF mine IS NOT NULL THEN
        PERFORM cronledger_fence(thread, mine);
    END IF;
    PERFORM FROM checkpoints WHERE thread_id = thread AND checkpoint_ns = ns AND checkpoint_id = id
        AND metadata->>'run_id' IS DISTINCT FROM run;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO cronledger_touched (thread_id, run_id, checkpoint_ns, checkpoint_id)
        VALUES (thread, run, ns, id) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN;  -- an earlier attempt came first: what is there now is partly its own
    END IF;
    INSERT INTO cronledger_kept
        (run_id, thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
        SELECT run, thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path
        FROM checkpoint_writes WHERE thread_id = thread AND checkpoint_ns = ns AND checkpoint_id = id;
END $$;

-- The thread as it was before the run. Its blobs go with those versions that no checkpoint has any more.
CREATE FUNCTION cronledger_rollback(thread text, run text, mine bigint, patience_ms integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cronledger_claim(thread, mine, patience_ms);
    DELETE FROM checkpoint_writes WHERE thread_id = thread AND (
        (checkpoint_ns, checkpoint_id) IN (
            SELECT checkpoint_ns, checkpoint_id FROM checkpoints
            WHERE thread_id = thread AND metadata->>'run_id' = run)
        OR (checkpoint_ns, checkpoint_id) IN (
            SELECT checkpoint_ns, checkpoint_id FROM cronledger_touched
            WHERE thread_id = thread AND run_id = run));
    WITH gone AS (
        DELETE FROM checkpoints WHERE thread_id = thread AND metadata->>'run_id' = run
        RETURNING checkpoint_ns, checkpoint->'channel_versions' AS versions
    ), free AS (
        SELECT DISTINCT checkpoint_ns, v.key, v.value FROM gone, jsonb_each_text(versions) AS v
    )
    DELETE FROM checkpoint_blobs b USING free
        WHERE b.thread_id = thread AND b.checkpoint_ns = free.checkpoint_ns AND b.channel = free.key
        AND b.version = free.value AND NOT EXISTS (
            SELECT FROM checkpoints c WHERE c.thread_id = thread AND c.checkpoint_ns = free.checkpoint_ns
            AND c.metadata->>'run_id' IS DISTINCT FROM run
            AND c.checkpoint->'channel_versions'->>free.key = free.value);
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
        SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path
        FROM cronledger_kept WHERE thread_id = thread AND run_id = run;
    DELETE FROM cronledger_touched WHERE thread_id = thread AND run_id = run;
    DELETE FROM cronledger_kept WHERE thread_id = thread AND run_id = run;
END $$;

-- Checkpoints first: what is written meanwhile leaves a blob too many, never one too few.
CREATE FUNCTION cronledger_copy(thread text, to_thread text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
        SELECT to_thread, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
            jsonb_set(metadata, '{thread_id}', to_jsonb(to_thread), false)
        FROM checkpoints WHERE thread_id = thread ON CONFLICT DO NOTHING;
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
        SELECT to_thread, checkpoint_ns, channel, version, type, blob
        FROM checkpoint_blobs WHERE thread_id = thread ON CONFLICT DO NOTHING;
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
        SELECT to_thread, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path
        FROM checkpoint_writes WHERE thread_id = thread ON CONFLICT DO NOTHING;
END $$;

-- An item may live for less than a minute, and be read meanwhile: LangGraph's column has whole minutes.
ALTER TABLE store ALTER COLUMN ttl_minutes TYPE double precision;
