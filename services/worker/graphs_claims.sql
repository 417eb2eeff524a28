-- Who may claim a thread: whose token no later one has. Tokens are positions of the ledger.

-- Whether the ledger has come to that position, and one more: what is undone is claimed with one more than its run.
-- One that was put back from a backup gives out positions once more, and claims that it has lost are nobody's. Its
-- owner looks: children see nothing of the ledger. Without one beside it each token is believed.
CREATE OR REPLACE FUNCTION cronledger_is_known(token bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('ledger.stored_events') IS NULL THEN
        RETURN true;
    END IF;
    RETURN token <= 1 + coalesce((SELECT max(notification_id) FROM ledger.stored_events), 0);
END $$;

-- Whether a later token has the thread, whose caller has it alone. The claim is read first: what it was made with
-- stood in the ledger before, so that nobody who is alive is taken for lost.
CREATE OR REPLACE FUNCTION cronledger_is_late(thread text, mine bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    theirs bigint;
BEGIN
    SELECT token INTO theirs FROM cronledger_claims WHERE thread_id = thread AND token > mine;
    RETURN theirs IS NOT NULL AND cronledger_is_known(theirs);
END $$;

-- Take the thread, unless a later token has it, or the ledger has lost what asks.
CREATE OR REPLACE FUNCTION cronledger_claim(thread text, mine bigint, patience_ms integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cronledger_alone(thread, patience_ms);
    IF cronledger_is_late(thread, mine) OR NOT cronledger_is_known(mine) THEN
        RAISE EXCEPTION 'a later attempt has the thread' USING ERRCODE = 'CL001';
    END IF;
    INSERT INTO cronledger_claims VALUES (thread, mine) ON CONFLICT (thread_id) DO UPDATE SET token = excluded.token;
END $$;

-- Remove everything of a thread, unless a later token has it; with `fence` the claim stays, as this token's.
CREATE OR REPLACE FUNCTION cronledger_forget(thread text, mine bigint, fence boolean, patience_ms integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM cronledger_alone(thread, patience_ms);
    IF cronledger_is_late(thread, mine) OR NOT cronledger_is_known(mine) THEN
        RETURN;
    END IF;
    DELETE FROM checkpoints WHERE thread_id = thread;
    DELETE FROM checkpoint_blobs WHERE thread_id = thread;
    DELETE FROM checkpoint_writes WHERE thread_id = thread;
    DELETE FROM cronledger_touched WHERE thread_id = thread;
    DELETE FROM cronledger_kept WHERE thread_id = thread;
    DELETE FROM cronledger_claims WHERE thread_id = thread;
    IF fence THEN
        INSERT INTO cronledger_claims VALUES (thread, mine);
    END IF;
END $$;
