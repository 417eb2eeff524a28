-- The read models' part of a PostgreSQL database: which copies there are, and the functions that their queries
-- share with SQLite. The tables of a copy are made by the projector.

CREATE TABLE tracking (name text PRIMARY KEY, version bigint NOT NULL, generation bigint NOT NULL, pos bigint NOT NULL, mark text NOT NULL) WITH (fillfactor = 50);
CREATE TABLE building (LIKE tracking INCLUDING ALL) WITH (fillfactor = 50);

-- A number of a table is never given out twice: one that is being emptied may still have it.
CREATE SEQUENCE generations;

CREATE FUNCTION instr(hay text, needle text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT strpos(hay, needle)';

-- Whatever is stored may be asked: what is no jsonb (a NUL, a number of more digits than it takes, too deep)
-- contains nothing, and no search fails because of it.
CREATE FUNCTION json_contains(hay text, needle text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS '
BEGIN
    RETURN coalesce(hay::jsonb @> needle::jsonb, false);
EXCEPTION
    WHEN untranslatable_character THEN
        RETURN coalesce(replace(hay, ''\u0000'', ''\ufffd'')::jsonb @> replace(needle, ''\u0000'', ''\ufffd'')::jsonb, false);
    WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
        RETURN false;
END';
