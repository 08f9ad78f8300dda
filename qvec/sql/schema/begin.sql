-- qvec: the whole schema, for a new database or for one that has this version already; upgrade scripts bring older
-- versions here. It needs PostgreSQL 14 or newer and pgvector 0.7 or newer, and is SQL and PL/pgSQL only.
--
-- This check is a block of its own, because an older server could not parse the next block.
DO $version$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.<) 140000 THEN
        RAISE EXCEPTION 'the server is PostgreSQL %; qvec needs 14 or newer',
            pg_catalog.current_setting('server_version');
    END IF;
END $version$;

-- Everything else is one DO block. So any client runs it completely or not at all, inside or outside of a transaction,
-- and the search path can be pg_catalog and the schema of pgvector, wherever that is. PL/pgSQL functions keep this path
-- (SET search_path FROM CURRENT); functions with RETURN are resolved when they are created. Every role that may create
-- objects in the schema of pgvector must be trusted (for public, from PostgreSQL 15 on, that is only its owner).
-- Functions whose names start with an underscore are private to qvec.
DO $install$
DECLARE
    caller_path text := pg_catalog.current_setting('search_path');
    caller_messages text := pg_catalog.current_setting('client_min_messages');
    pgvector record;
    installed text;
BEGIN

PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

SELECT nspname AS schema, extversion AS version INTO pgvector
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector';
IF pgvector IS NULL THEN
    RAISE EXCEPTION 'this database has no pgvector; run: CREATE EXTENSION vector';
ELSIF string_to_array(substring(pgvector.version FROM '^\d+\.\d+'), '.')::int[] < '{0,7}' THEN
    RAISE EXCEPTION 'pgvector is %; qvec needs 0.7.0 or newer, for its HNSW index on bits', pgvector.version
        USING HINT = 'ALTER EXTENSION vector UPDATE';
END IF;
IF to_regprocedure('qvec.version()') IS NOT NULL THEN
    EXECUTE 'SELECT qvec.version()' INTO installed;
    IF installed <> '@VERSION@' THEN
        RAISE EXCEPTION 'the schema qvec is version % and this script is for @VERSION@', installed
            USING HINT = format('Run qvec sql upgrade, or the output of: qvec sql print --from %s', installed);
    END IF;
END IF;

PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', pgvector.schema), true);
PERFORM set_config('client_min_messages', 'warning', true);

CREATE SCHEMA IF NOT EXISTS qvec;
COMMENT ON SCHEMA qvec IS 'Quantized vectors: calibrations, collections and their loads';

CREATE OR REPLACE FUNCTION qvec.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '@VERSION@';
COMMENT ON FUNCTION qvec.version() IS 'Version of this schema';
