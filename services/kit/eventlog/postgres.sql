CREATE TABLE stored_events (
    notification_id bigint PRIMARY KEY, -- no default: only ledger_append gives positions out
    originator_id uuid NOT NULL,
    originator_version integer NOT NULL,
    topic text COLLATE "C" NOT NULL,
    state bytea NOT NULL,
    UNIQUE (originator_id, originator_version)
);
CREATE TABLE blobs (sha256 text COLLATE "C" PRIMARY KEY, data bytea NOT NULL);
-- JSON of 32 KiB and more: its own compression would cost more than it saves.
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE leases (name text COLLATE "C" PRIMARY KEY, holder text NOT NULL, until timestamptz NOT NULL);
CREATE TABLE cursors (name text COLLATE "C" PRIMARY KEY, position bigint NOT NULL);

-- Held until the commit is durable, so that positions are in the order of the commits and have no gap. The number
-- is the table's own: ledgers in other schemas do not wait. Not the table's own lock, which makes VACUUM and
-- CREATE INDEX CONCURRENTLY stop the writers.
CREATE FUNCTION ledger_lock() RETURNS void LANGUAGE sql AS
    $$ SELECT pg_advisory_xact_lock(727027, 'stored_events'::regclass::oid::int) $$;

-- The last position; NULL, and nothing stored, when a stream is not at the version that the batch rests on.
-- Plans are said, because those of a young table would stay with the session.
CREATE FUNCTION ledger_append(
    rests_on uuid[], rests_at int[], streams uuid[], versions int[], topics text[], states bytea[],
    digests text[], datas bytea[]
) RETURNS bigint LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    base bigint;
BEGIN
    PERFORM ledger_lock();
    IF EXISTS (
        SELECT FROM unnest(rests_on, rests_at) AS rest (stream, version)
        WHERE rest.version <> coalesce((
            SELECT event.originator_version FROM stored_events AS event WHERE event.originator_id = rest.stream
            ORDER BY event.originator_version DESC LIMIT 1), 0)
    ) THEN
        RETURN NULL;
    END IF;
    SELECT coalesce((SELECT notification_id FROM stored_events ORDER BY notification_id DESC LIMIT 1), 0) INTO base;
    INSERT INTO stored_events SELECT base + n, stream, version, topic, state
        FROM unnest(streams, versions, topics, states) WITH ORDINALITY AS new (stream, version, topic, state, n);
    IF cardinality(digests) > 0 THEN
        INSERT INTO blobs SELECT * FROM unnest(digests, datas) ON CONFLICT DO NOTHING;
    END IF;
    RETURN base + cardinality(streams);
END $$;
