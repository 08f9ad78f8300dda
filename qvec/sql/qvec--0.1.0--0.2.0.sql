-- From schema 0.1.0, tables alone, to 0.2.0. What a script can replace is not here: qvec.sql is run after this.
DO $upgrade$
DECLARE
    caller_path text := pg_catalog.current_setting('search_path');
    installed text;
BEGIN

PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE 'SELECT qvec.version()' INTO installed;
IF installed <> '0.1.0' THEN
    RAISE EXCEPTION 'the schema qvec is version % and this script is for 0.1.0', installed;
END IF;
PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', nspname), true)
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector';

ALTER TABLE qvec.calibration
    ADD COLUMN dimensions integer,
    ADD COLUMN threshold vector,
    ADD COLUMN radius vector,
    ADD COLUMN deviation vector,
    ADD COLUMN mean vector,
    ADD COLUMN std vector,
    ADD COLUMN scale vector,
    ADD COLUMN safe_norm float8,
    ADD COLUMN length_base float8[],
    ADD COLUMN length_scale float8[],
    ADD COLUMN length_digits bit varying[],
    ADD COLUMN projection vector[],
    ADD COLUMN bias integer[];
ALTER TABLE qvec.calibration ALTER COLUMN projection SET STORAGE EXTERNAL;

ALTER TABLE qvec.collection
    DROP CONSTRAINT collection_rescore_check,
    ADD CONSTRAINT collection_rescore_check CHECK (rescore IN ('int8', 'int4', 'binary', 'float16', 'float32')),
    DROP CONSTRAINT collection_prefilter_check,
    ADD CONSTRAINT collection_prefilter_check CHECK (prefilter IN ('ternary', 'binary', 'learned')),
    ADD COLUMN embedding jsonb CHECK (jsonb_typeof(embedding) = 'object');

CREATE OR REPLACE FUNCTION qvec.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '0.2.0';

PERFORM set_config('search_path', caller_path, true);
END $upgrade$;
