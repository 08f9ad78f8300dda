-- From version @FROM@ of the schema to @TO@. Objects that CREATE OR REPLACE changes are not here: the full script follows.
DO $upgrade$
DECLARE
    caller_path text := pg_catalog.current_setting('search_path');
    installed text;
BEGIN

PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE 'SELECT qvec.version()' INTO installed;
IF installed <> '@FROM@' THEN
    RAISE EXCEPTION 'the schema qvec is version % and this script is for @FROM@', installed;
END IF;
PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', nspname), true)
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector';

@CHANGES@
CREATE OR REPLACE FUNCTION qvec.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '@TO@';

PERFORM set_config('search_path', caller_path, true);
END $upgrade$;
