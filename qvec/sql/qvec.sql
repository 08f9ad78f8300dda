-- qvec: the whole schema, for a new database or one that has this version already.
-- Needs PostgreSQL 14 or newer and pgvector 0.7 or newer; SQL and PL/pgSQL only. An older version of the schema is
-- brought here by the scripts qvec--A--B.sql.
--
-- First a block of its own: an older server could not even read the next one.
DO $version$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.<) 140000 THEN
        RAISE EXCEPTION 'the server is PostgreSQL %; qvec needs 14 or newer',
            pg_catalog.current_setting('server_version');
    END IF;
END $version$;

-- One DO block, so that it is all or nothing with any client, inside a transaction or not; and so that it can set the
-- search path, for itself, to pg_catalog and pgvector's schema, wherever that is. Functions written in PL/pgSQL take
-- that path over (FROM CURRENT); those with RETURN are resolved once and for all when they are created.
-- Whoever may create objects in pgvector's schema is trusted: keep it to its owner (public is, from PostgreSQL 15 on).
-- A name that begins with an underscore is for qvec's own use.
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
    IF installed <> '0.2.0' THEN
        RAISE EXCEPTION 'the schema qvec is version % and this script is of 0.2.0', installed
            USING HINT = format('qvec sql upgrade, or run what this prints: qvec sql print --from %s', installed);
    END IF;
END IF;

PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', pgvector.schema), true);
PERFORM set_config('client_min_messages', 'warning', true);

CREATE SCHEMA IF NOT EXISTS qvec;
COMMENT ON SCHEMA qvec IS 'Quantized vectors: calibrations, collections and their loads';

CREATE OR REPLACE FUNCTION qvec.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '0.2.0';
COMMENT ON FUNCTION qvec.version() IS 'Version of this schema';

-- Calibrations

CREATE TABLE IF NOT EXISTS qvec.calibration (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    content bytea NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    dimensions integer,
    threshold vector,
    radius vector,
    deviation vector,
    mean vector,
    std vector,
    scale vector,
    safe_norm float8,
    length_base float8[],
    length_scale float8[],
    length_digits bit varying[],
    projection vector[],
    bias integer[]
);
ALTER TABLE qvec.calibration ALTER COLUMN projection SET STORAGE EXTERNAL;  -- read by every query: not to be unpacked
COMMENT ON TABLE qvec.calibration IS 'How a model''s floats become codes; content is the safetensors file that the id hashes';
COMMENT ON COLUMN qvec.calibration.threshold IS 'Read from content, as the columns after it; NULL beyond the 16,000 dimensions of a vector';
COMMENT ON COLUMN qvec.calibration.scale IS '128 / radius in float32, the radius at least 2^-120';
COMMENT ON COLUMN qvec.calibration.safe_norm IS 'Vectors up to this norm can neither overflow nor underflow on their way to codes';
COMMENT ON COLUMN qvec.calibration.projection IS 'Of learned bits, with bias: bit j is [<projection[j], 2 * code - 255> + bias[j] > 0], in whole numbers that float32 holds';
COMMENT ON COLUMN qvec.calibration.length_base IS 'With the columns after it, at the number of planes: the squared length of what codes stand for, as qvec._length gives it';

-- The metadata as it stands in the file: canonical JSON, with the id, and where the arrays begin (from 0).
CREATE OR REPLACE FUNCTION qvec._header(content bytea, OUT metadata text, OUT arrays json, OUT start integer)
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    header_bytes bigint := 0;
BEGIN
    FOR i IN REVERSE 7..0 LOOP
        header_bytes := header_bytes * 256 + get_byte(content, i);
    END LOOP;
    start := 8 + header_bytes;
    arrays := convert_from(substring(content FROM 9 FOR header_bytes::int), 'UTF8')::json;
    metadata := arrays -> '__metadata__' ->> 'qvec';
EXCEPTION WHEN data_exception OR array_subscript_error OR character_not_in_repertoire OR invalid_text_representation THEN
    metadata := NULL;
END $$;
COMMENT ON FUNCTION qvec._header(bytea) IS 'The header of a safetensors file that qvec wrote; metadata is NULL where it is none';

-- float32 from its bits, exactly, subnormal numbers and the sign of zero too.
CREATE OR REPLACE FUNCTION qvec._float(bits bigint) RETURNS real
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN bits >> 23 & 255 = 255 THEN 'NaN'::real
        WHEN bits >> 23 & 255 = 0 THEN (bits & 8388607) * power(2::float8, -149)
        ELSE (8388608 + (bits & 8388607)) * power(2::float8, ((bits >> 23 & 255) - 150)::float8)
    END::real * CASE WHEN bits >> 31 = 1 THEN -1::real ELSE 1::real END;
COMMENT ON FUNCTION qvec._float(bigint) IS 'float32 from its bits; NaN for what is not finite';

CREATE OR REPLACE FUNCTION qvec._floats(content bytea) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT qvec._float(get_byte(content, i) + (get_byte(content, i + 1) << 8)
                           + (get_byte(content, i + 2) << 16) + (get_byte(content, i + 3)::bigint << 24))
        FROM generate_series(0, length(content) - 4, 4) AS i ORDER BY i);
COMMENT ON FUNCTION qvec._floats(bytea) IS 'The float32 numbers of little-endian bytes';

CREATE OR REPLACE FUNCTION qvec._bytes(floats real[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT string_agg(substring(b FROM 4) || substring(b FROM 3 FOR 1) || substring(b FROM 2 FOR 1)
                          || substring(b FOR 1), ''::bytea ORDER BY i)
        FROM unnest(floats) WITH ORDINALITY AS u (x, i), LATERAL (SELECT float4send(x) AS b OFFSET 0) AS sent);
COMMENT ON FUNCTION qvec._bytes(real[]) IS 'Little-endian bytes of float32 numbers';

-- Whether the id is the hash of the content. The id itself stands among the metadata and is not hashed: of the places
-- that look like it, one has to be the right one.
CREATE OR REPLACE FUNCTION qvec._is_hash(id text, metadata text, arrays bytea) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    entry text := format(',"id":"%s"', id);
    place integer := 0;
    next integer;
BEGIN
    LOOP
        next := strpos(substr(metadata, place + 1), entry);
        IF next = 0 THEN
            RETURN false;
        END IF;
        place := place + next;
        IF left(encode(sha256(convert_to(overlay(metadata PLACING '' FROM place FOR length(entry)), 'UTF8') || arrays),
                       'hex'), 16) = id THEN
            RETURN true;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION qvec._is_hash(text, text, bytea) IS 'Whether an id is the hash of metadata (with that id) and arrays';

-- What is hashed beside the metadata: each array with its name, in order of name.
CREATE OR REPLACE FUNCTION qvec._hashed_arrays(arrays json, content bytea, start integer) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT string_agg(convert_to(E'\n' || name || E'\n', 'UTF8')
                          || substring(content FROM start + 1 + (arrays #>> ARRAY[name, 'data_offsets', '0'])::int
                                       FOR (arrays #>> ARRAY[name, 'data_offsets', '1'])::int
                                           - (arrays #>> ARRAY[name, 'data_offsets', '0'])::int), ''::bytea ORDER BY i)
        FROM unnest('{bias,deviation,mean,projection,radius,std,threshold}'::text[]) WITH ORDINALITY AS u (name, i)
        WHERE arrays -> name IS NOT NULL);
COMMENT ON FUNCTION qvec._hashed_arrays(json, bytea, integer) IS 'The bytes of the arrays as a calibration''s id hashes them';

CREATE OR REPLACE FUNCTION qvec._array_bytes(arrays json, content bytea, start integer, name text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substring(content FROM start + 1 + (arrays #>> ARRAY[name, 'data_offsets', '0'])::int
                     FOR (arrays #>> ARRAY[name, 'data_offsets', '1'])::int
                         - (arrays #>> ARRAY[name, 'data_offsets', '0'])::int);
COMMENT ON FUNCTION qvec._array_bytes(json, bytea, integer, text) IS 'The bytes of an array of a safetensors file, by name';

CREATE OR REPLACE FUNCTION qvec._array(arrays json, content bytea, start integer, name text) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN qvec._floats(qvec._array_bytes(arrays, content, start, name));
COMMENT ON FUNCTION qvec._array(json, bytea, integer, text) IS 'An array of a safetensors file, by name';

CREATE OR REPLACE FUNCTION qvec._integers(content bytea) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT get_byte(content, i) + (get_byte(content, i + 1) << 8) + (get_byte(content, i + 2) << 16)
               + (get_byte(content, i + 3) << 24)
        FROM generate_series(0, length(content) - 4, 4) AS i ORDER BY i);
COMMENT ON FUNCTION qvec._integers(bytea) IS 'The int32 numbers of little-endian bytes';

CREATE OR REPLACE FUNCTION qvec._projection(content bytea, dimensions integer) RETURNS vector[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT (SELECT array_agg((get_byte(weights, i) # 128) - 128 ORDER BY i)
                FROM generate_series(0, dimensions - 1) AS i)::vector
        FROM generate_series(0, length(content) / dimensions - 1) AS j,
            LATERAL (SELECT substring(content FROM j * dimensions + 1 FOR dimensions) AS weights OFFSET 0) AS line
        ORDER BY j);
COMMENT ON FUNCTION qvec._projection(bytea, integer) IS 'The rows of an int8 matrix';

-- Numbers from -1 to 1 as 16 planes of signed digits D_b, lowest first: each is 1/(127 * 512) * sum of 2^b * (2 D_b - 1),
-- rounded to the nearest such.
CREATE OR REPLACE FUNCTION qvec._signed_digits(z vector) RETURNS bit varying
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    c64 vector := array_fill(64::real, ARRAY[vector_dims(z)])::vector;
    c127 vector := array_fill(127::real, ARRAY[vector_dims(z)])::vector;
    round128 vector := array_fill(1610612736::real, ARRAY[vector_dims(z)])::vector; -- 1.5 * 2^30
    least_digit vector := array_fill(0.001953125::real, ARRAY[vector_dims(z)])::vector; -- 2^-9
    round_even vector := array_fill(49152::real, ARRAY[vector_dims(z)])::vector; -- 1.5 * 2^15: its last bit is 2^-8
    padding bit varying := repeat('0', (8 - vector_dims(z) % 8) % 8)::bit varying;
    digits bit varying := '';
BEGIN
    -- The nearest number that 16 digits give, 64 the first: an odd multiple of 2^-9, so that no remainder is a tie.
    z := z * c127 - least_digit;
    z := ((z + round_even) - round_even) + least_digit + c64;
    FOR digit IN 1..16 LOOP
        digits := binary_quantize(z - c64) || padding || digits;
        z := z - ((z + round128) - round128);
        z := z + z + c64;
    END LOOP;
    RETURN digits;
END $$;
COMMENT ON FUNCTION qvec._signed_digits(vector) IS 'Numbers from -1 to 1 as 16 planes of signed digits, lowest first';

-- The squared length of what codes stand for. With the planes as signs s_a = 2 P_a - 1, a row is threshold + step / 2 *
-- sum of 2^a * s_a. As s_a^2 = 1, its squared length is |threshold|^2 + |step|^2 / 4 * sum of 4^a, plus for each plane
-- 2^a * <threshold * step, s_a>, less for each pair of planes 2^(a+b) / 2 * <step^2, signs of P_a xor P_b>. With these
-- weights as digits, that of one weight in a row as _length_bits_sql has the planes and pairs, it is
-- base + scale * sum of 2^b * hamming(planes and pairs, digits_b).
CREATE OR REPLACE FUNCTION qvec._length(
    threshold real[], step float8[], planes integer, OUT base float8, OUT scale float8, OUT digits bit varying)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    linear float8[] := ARRAY(SELECT t * s FROM unnest(threshold, step) AS u (t, s));
    squares float8[] := ARRAY(SELECT -s * s / 2 FROM unnest(step) AS s);
    most float8 := (SELECT max(greatest(2 ^ (planes - 1) * abs(l), CASE WHEN planes > 1 THEN 2 ^ (2 * planes - 3) * abs(s) END))
                    FROM unnest(linear, squares) AS u (l, s));
    width integer := (cardinality(step) + 7) / 8 * 8;
    weights bit varying[];
BEGIN
    FOR apart IN 0..planes - 1 LOOP  -- the planes themselves, then the pairs of neighbours, and so on
        FOR a IN REVERSE planes - 1..apart LOOP
            -- To multiples of 2^-23, so that no operation is too small for float32.
            weights := weights || qvec._signed_digits(ARRAY(
                SELECT coalesce(round(8388608 * CASE apart WHEN 0 THEN 2 ^ a * l ELSE 2 ^ (2 * a - apart) * s END
                                      / nullif(most, 0)) / 8388608, 0)
                FROM unnest(linear, squares) AS u (l, s))::vector);
        END LOOP;
    END LOOP;
    digits := '';
    FOR b IN 0..15 LOOP
        FOR i IN 1..cardinality(weights) LOOP
            digits := digits || substring(weights[i] FROM b * width + 1 FOR width);
        END LOOP;
    END LOOP;
    scale := -2 * most / (127 * 512);
    base := (SELECT sum(t::float8 * t + s * s * (4 ^ planes - 1) / 12) FROM unnest(threshold, step) AS u (t, s))
        - scale / 2 * 65535 * cardinality(step) * cardinality(weights);
END $$;
COMMENT ON FUNCTION qvec._length(real[], float8[], integer) IS 'What gives the squared length of what codes stand for';

-- A calibration is verified as it comes in, and everything but its id and content derived from its content.
CREATE OR REPLACE FUNCTION qvec._verify_calibration() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    header record := qvec._header(NEW.content);
    threshold real[];
    radius real[];
    deviation real[];
    mean real[];
    std real[];
    scale real[];
    fits boolean;
    length record;
BEGIN
    IF header.metadata IS NULL THEN
        RAISE EXCEPTION 'calibration % is damaged: its content is no safetensors file that qvec wrote', NEW.id
            USING ERRCODE = 'data_exception';
    ELSIF qvec._is_hash(NEW.id, header.metadata, qvec._hashed_arrays(header.arrays, NEW.content, header.start))
          IS NOT TRUE THEN
        RAISE EXCEPTION 'calibration % is damaged: its content does not hash to its id', NEW.id
            USING ERRCODE = 'data_exception';
    END IF;
    NEW.metadata := header.metadata::jsonb - 'id';
    IF (NEW.metadata ->> 'format')::int NOT IN (1, 2) THEN
        RAISE EXCEPTION 'calibration % has format %, this version of the schema reads up to 2',
            NEW.id, NEW.metadata ->> 'format' USING HINT = 'qvec sql upgrade', ERRCODE = 'data_exception';
    END IF;
    NEW.dimensions := (NEW.metadata ->> 'dimensions')::int;
    threshold := qvec._array(header.arrays, NEW.content, header.start, 'threshold');
    radius := qvec._array(header.arrays, NEW.content, header.start, 'radius');
    scale := ARRAY(SELECT (128 / greatest(r::float8, power(2::float8, -120)))::real FROM unnest(radius) AS r);
    NEW.safe_norm := (
        SELECT CASE WHEN min(s) >= 1 THEN 1e38 / max(s) - max(abs(t::float8)) ELSE -1 END
        FROM unnest(threshold, scale) AS u (t, s));
    deviation := qvec._array(header.arrays, NEW.content, header.start, 'deviation');
    mean := qvec._array(header.arrays, NEW.content, header.start, 'mean');
    std := qvec._array(header.arrays, NEW.content, header.start, 'std');
    IF EXISTS (SELECT FROM unnest(threshold, radius, deviation, mean, std) AS u (t, r, d, m, s)
               WHERE num_nulls(t, r, d, m, s) > 0 OR 'NaN' IN (t, r, d, m, s))
       OR cardinality(threshold) <> NEW.dimensions THEN
        RAISE EXCEPTION 'calibration % is damaged: its arrays are not % finite numbers each', NEW.id, NEW.dimensions
            USING ERRCODE = 'data_exception';
    END IF;
    fits := NEW.dimensions <= 16000;
    NEW.threshold := CASE WHEN fits THEN threshold::vector END;
    NEW.radius := CASE WHEN fits THEN radius::vector END;
    NEW.scale := CASE WHEN fits THEN scale::vector END;
    NEW.deviation := CASE WHEN fits THEN deviation::vector END;
    NEW.mean := CASE WHEN fits THEN mean::vector END;
    NEW.std := CASE WHEN fits THEN std::vector END;
    IF fits AND NEW.metadata ->> 'format' = '2' THEN
        NEW.projection := qvec._projection(
            qvec._array_bytes(header.arrays, NEW.content, header.start, 'projection'), NEW.dimensions);
        NEW.bias := qvec._integers(qvec._array_bytes(header.arrays, NEW.content, header.start, 'bias'));
        IF EXISTS (SELECT FROM unnest(NEW.projection, NEW.bias) AS u (w, b)
                   WHERE num_nulls(w, b) > 0 OR 255 * l1_distance(w, w - w) + abs(b) >= 16777216) THEN
            RAISE EXCEPTION 'calibration % is damaged: its projection and bias do not fit each other', NEW.id
                USING ERRCODE = 'data_exception';
        END IF;
    END IF;
    IF fits THEN
        FOR length IN
            SELECT p AS planes, l.*
            FROM (VALUES (1, ARRAY(SELECT 2 * d::float8 FROM unnest(deviation) AS d)),
                         (4, ARRAY(SELECT r::float8 / 8 FROM unnest(radius) AS r))) AS steps (p, step),
                qvec._length(threshold, step, p) AS l
        LOOP
            NEW.length_base[length.planes] := length.base;
            NEW.length_scale[length.planes] := length.scale;
            NEW.length_digits[length.planes] := length.digits;
        END LOOP;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qvec._verify_calibration() IS 'Trigger: checks a calibration''s hash and reads its arrays';

CREATE OR REPLACE FUNCTION qvec._refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION 'calibration % is immutable: its id is the hash of its content', OLD.id
        USING HINT = 'Import the changed calibration as another one.', ERRCODE = 'object_not_in_prerequisite_state';
END $$;
COMMENT ON FUNCTION qvec._refuse_change() IS 'Trigger: calibrations do not change';

CREATE OR REPLACE TRIGGER verify BEFORE INSERT OR UPDATE ON qvec.calibration
    FOR EACH ROW EXECUTE FUNCTION qvec._verify_calibration();
UPDATE qvec.calibration SET content = content WHERE dimensions IS NULL;  -- those that an older version stored
ALTER TABLE qvec.calibration ALTER COLUMN dimensions SET NOT NULL, ALTER COLUMN safe_norm SET NOT NULL;
CREATE OR REPLACE TRIGGER immutable BEFORE UPDATE ON qvec.calibration
    FOR EACH ROW EXECUTE FUNCTION qvec._refuse_change();

CREATE OR REPLACE FUNCTION qvec.import_calibration(content bytea) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    id text := (SELECT metadata::jsonb ->> 'id' FROM qvec._header(content));
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'this is no calibration: no safetensors file that qvec wrote' USING ERRCODE = 'data_exception';
    END IF;
    INSERT INTO qvec.calibration (id, content) VALUES (id, content) ON CONFLICT ON CONSTRAINT calibration_pkey DO NOTHING;
    RETURN id;
END $$;
COMMENT ON FUNCTION qvec.import_calibration(bytea) IS 'Stores a calibration from the bytes of its file, hash verified; returns its id';

CREATE OR REPLACE FUNCTION qvec.import_calibration(calibration jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF jsonb_typeof(calibration -> 'content') IS DISTINCT FROM 'string' THEN
        RAISE EXCEPTION 'this is no calibration: expected an object with content (base64), as qvec.export_calibration gives'
            USING ERRCODE = 'data_exception';
    END IF;
    RETURN qvec.import_calibration(decode(calibration ->> 'content', 'base64'));
END $$;
COMMENT ON FUNCTION qvec.import_calibration(jsonb) IS 'Stores a calibration as qvec.export_calibration gave it, hash verified; returns its id';

CREATE OR REPLACE FUNCTION qvec.export_calibration(id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    stored record;
BEGIN
    SELECT k.content, k.metadata INTO stored FROM qvec.calibration AS k WHERE k.id = export_calibration.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(id) USING ERRCODE = 'no_data_found';
    END IF;
    RETURN jsonb_build_object('id', id, 'metadata', stored.metadata,
                              'content', translate(encode(stored.content, 'base64'), E'\n', ''));
END $$;
COMMENT ON FUNCTION qvec.export_calibration(text) IS 'A calibration as JSON: id, metadata, and content, the bytes of its file in base64';

-- Codes. The specification is in numpy, in qvec's tests: every operation below rounds to float32 where it does.

-- The sum of squares in eight lanes, lane l taking dimensions l, l + 8, …; then the lanes in order.
CREATE OR REPLACE FUNCTION qvec._squared_norm(x vector) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    s float8[] := ARRAY(SELECT e::float8 * e FROM unnest(x::real[]) AS e) || array_fill(0::float8, ARRAY[31]);
    a float8 := 0; b float8 := 0; c float8 := 0; d float8 := 0; e float8 := 0; f float8 := 0; g float8 := 0; h float8 := 0;
BEGIN
    FOR i IN 1..vector_dims(x) BY 32 LOOP
        a := a + s[i] + s[i + 8] + s[i + 16] + s[i + 24];
        b := b + s[i + 1] + s[i + 9] + s[i + 17] + s[i + 25];
        c := c + s[i + 2] + s[i + 10] + s[i + 18] + s[i + 26];
        d := d + s[i + 3] + s[i + 11] + s[i + 19] + s[i + 27];
        e := e + s[i + 4] + s[i + 12] + s[i + 20] + s[i + 28];
        f := f + s[i + 5] + s[i + 13] + s[i + 21] + s[i + 29];
        g := g + s[i + 6] + s[i + 14] + s[i + 22] + s[i + 30];
        h := h + s[i + 7] + s[i + 15] + s[i + 23] + s[i + 31];
    END LOOP;
    RETURN a + b + c + d + e + f + g + h;
END $$;
COMMENT ON FUNCTION qvec._squared_norm(vector) IS 'The squared norm, its additions in the order that the specification says';

-- pgvector's norm adds in another order: good enough to tell a row that is normalized already, but not to divide by.
CREATE OR REPLACE FUNCTION qvec._unit(x vector) RETURNS vector
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    off_unit float8 := abs(vector_norm(x) ^ 2 - 1);
    squared float8;
BEGIN
    IF off_unit < 1.999999e-4 THEN
        RETURN x;
    END IF;
    squared := qvec._squared_norm(x);
    IF abs(squared - 1) <= 2e-4 THEN
        RETURN x;
    ELSIF squared = 0 THEN
        RAISE EXCEPTION 'zero vector, which has no direction under cosine' USING ERRCODE = 'data_exception';
    END IF;
    squared := sqrt(squared);
    -- A quotient that rounds to zero keeps its sign; Postgres would call it an underflow.
    RETURN ARRAY(
        SELECT CASE WHEN abs(e / squared) > power(2::float8, -150) THEN (e / squared)::real ELSE (0 * e)::real END
        FROM unnest(x::real[]) AS e)::vector;
END $$;
COMMENT ON FUNCTION qvec._unit(vector) IS 'The vector at norm 1, unchanged where it is within 2e-4 of that (squared)';

-- A vector as codes are made of it: of a known length, cut to the calibration's dimensions, at norm 1 under cosine.
CREATE OR REPLACE FUNCTION qvec._prepared(x vector, calibration text) RETURNS vector
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
BEGIN
    SELECT dimensions, (metadata ->> 'cut_from')::int AS cut_from, metadata ->> 'metric' AS metric INTO k
        FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(calibration) USING ERRCODE = 'no_data_found';
    ELSIF vector_dims(x) = k.cut_from THEN
        x := subvector(x, 1, k.dimensions);
    ELSIF vector_dims(x) <> k.dimensions THEN
        RAISE EXCEPTION 'the vector has % dimensions, expected %', vector_dims(x),
            k.dimensions || coalesce(' or ' || k.cut_from, '') USING ERRCODE = 'data_exception';
    END IF;
    RETURN CASE WHEN k.metric = 'cosine' THEN qvec._unit(x) ELSE x END;
END $$;
COMMENT ON FUNCTION qvec._prepared(vector, text) IS 'A vector as a calibration quantizes it: cut, and normalized under cosine';

-- Codes in float64, where the sum, product and quotient of two float32 numbers, rounded to float32, come out as if they
-- were computed there; values out of range become infinite or zero, where Postgres would raise an error.
CREATE OR REPLACE FUNCTION qvec._float32(x float8) RETURNS float8
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN abs(x) <= power(2::float8, -150) THEN 0 * x
        WHEN abs(x) < power(2::float8, 128) - power(2::float8, 103) THEN x::real::float8
        ELSE sign(x) * 'Infinity'::float8
    END;
COMMENT ON FUNCTION qvec._float32(float8) IS 'A number rounded to float32, infinite or zero beyond its range';

-- The eight planes of the codes 127 + n, by pgvector's own loops. With z = 2n - 1 the top bit is [z > 0]; 128 is then
-- taken off or added, by rounding z + 128 to a multiple of 256, and the rest doubled for the next bit.
CREATE OR REPLACE FUNCTION qvec._whole_planes(n vector) RETURNS bit varying[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    c128 vector := array_fill(128::real, ARRAY[vector_dims(n)])::vector;
    round256 vector := array_fill(3221225472::real, ARRAY[vector_dims(n)])::vector; -- 1.5 * 2^31: its last bit is 256
    z vector := n + n - array_fill(1::real, ARRAY[vector_dims(n)])::vector;
    plane bit varying[];
BEGIN
    FOR i IN 1..8 LOOP
        plane[i] := binary_quantize(z);
        z := z + c128;
        z := z - ((z + round256) - round256);
        z := z + z;
    END LOOP;
    RETURN plane;
END $$;
COMMENT ON FUNCTION qvec._whole_planes(vector) IS 'Bit planes of the codes 127 + n for whole numbers n from -127 to 128';

CREATE OR REPLACE FUNCTION qvec._joined(plane bit varying[], planes integer) RETURNS bit varying
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    padding bit varying := repeat('0', (8 - length(plane[1]) % 8) % 8)::bit varying;
    codes bit varying := '';
BEGIN
    FOR i IN 1..planes LOOP
        codes := codes || plane[i] || padding;
    END LOOP;
    RETURN codes;
END $$;
COMMENT ON FUNCTION qvec._joined(bit varying[], integer) IS 'The top planes behind each other, each padded to whole bytes';

CREATE OR REPLACE FUNCTION qvec._exact_planes(x vector, threshold vector, scale vector, planes integer) RETURNS bit varying
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN qvec._joined(qvec._whole_planes(ARRAY(
        SELECT CASE
            WHEN step > 128 THEN 128
            WHEN difference > 0 THEN greatest(ceil(step), 1)
            ELSE ceil(greatest(step, -127))
        END
        FROM unnest(x::real[], threshold::real[], scale::real[]) AS u (e, t, s),
            LATERAL (SELECT qvec._float32(e::float8 - t) AS difference OFFSET 0) AS d,
            LATERAL (SELECT qvec._float32(difference * s) AS step OFFSET 0) AS p)::vector), planes);
COMMENT ON FUNCTION qvec._exact_planes(vector, vector, vector, integer) IS 'Codes of prepared vectors of any size, one number at a time: slow';

-- Some ten times as fast, for numbers whose operations cannot leave the range of float32, as pgvector refuses. With
-- t = (x - threshold) * scale and n the whole number next to t, found by adding a number whose last bit is 1, the code is
-- 127 + n, and one more where t > n: added as bits.
CREATE OR REPLACE FUNCTION qvec._fast_planes(x vector, threshold vector, scale vector, planes integer) RETURNS bit varying
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    round1 vector := array_fill(12582912::real, ARRAY[vector_dims(x)])::vector; -- 1.5 * 2^23
    c127 vector := array_fill(127::real, ARRAY[vector_dims(x)])::vector;
    difference vector := x - threshold;
    t vector;
    n vector;
    above bit varying;
    within bit varying;
    carry bit varying;
    plane bit varying[];
    sum bit varying;
BEGIN
    IF planes = 1 THEN
        RETURN qvec._joined(ARRAY[binary_quantize(difference)::bit varying], 1);
    END IF;
    t := difference * scale;
    n := (t + round1) - round1;
    above := binary_quantize(t - c127);
    within := binary_quantize(t + c127);
    carry := binary_quantize(t - n);
    plane := qvec._whole_planes(n);
    FOR i IN REVERSE 8..2 LOOP
        sum := plane[i] # carry;
        carry := plane[i] & carry;
        plane[i] := (sum | above) & within;
    END LOOP;
    plane[1] := binary_quantize(difference);
    RETURN qvec._joined(plane, planes);
END $$;
COMMENT ON FUNCTION qvec._fast_planes(vector, vector, vector, integer) IS 'Codes of prepared vectors up to the calibration''s safe norm';

CREATE OR REPLACE FUNCTION qvec.quantize(embedding vector, calibration text, planes integer DEFAULT 8) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    x vector := qvec._prepared(embedding, calibration);
    k record;
BEGIN
    IF planes NOT BETWEEN 1 AND 8 THEN
        RAISE EXCEPTION 'planes is %, expected 1 to 8', planes USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT threshold, scale, safe_norm INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF vector_norm(x) <= k.safe_norm THEN
        RETURN qvec._fast_planes(x, k.threshold, k.scale, planes);
    END IF;
    RETURN qvec._exact_planes(x, k.threshold, k.scale, planes);
END $$;
COMMENT ON FUNCTION qvec.quantize(vector, text, integer) IS 'The codes of a vector: 1 (binary), 4 (int4), 8 (int8) or any number of bit planes, top plane first';

CREATE OR REPLACE FUNCTION qvec.quantize(embedding halfvec, calibration text, planes integer DEFAULT 8) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding::vector, calibration, planes);
COMMENT ON FUNCTION qvec.quantize(halfvec, text, integer) IS 'The codes of a vector: 1 (binary), 4 (int4), 8 (int8) or any number of bit planes, top plane first';

CREATE OR REPLACE FUNCTION qvec.binary(embedding vector, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding, calibration, 1);
COMMENT ON FUNCTION qvec.binary(vector, text) IS 'The sign bits of a vector: [x > threshold] for each dimension';

CREATE OR REPLACE FUNCTION qvec.binary(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding::vector, calibration, 1);
COMMENT ON FUNCTION qvec.binary(halfvec, text) IS 'The sign bits of a vector: [x > threshold] for each dimension';

-- The two bits of each dimension's level (-1, 0, +1) in unary, from the four top planes of its code:
-- [code >= 144] and then [code >= 112], width bits each. Inlined into the index expression and the search.
CREATE OR REPLACE FUNCTION qvec.ternary(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (substring(codes from 1 for width)
            & (substring(codes from width + 1 for width)
               | substring(codes from 2 * width + 1 for width)
               | substring(codes from 3 * width + 1 for width)))
        || (substring(codes from 1 for width)
            | (substring(codes from width + 1 for width)
               & substring(codes from 2 * width + 1 for width)
               & substring(codes from 3 * width + 1 for width)));
COMMENT ON FUNCTION qvec.ternary(bit, integer) IS 'Ternary levels as 2 * width bits, from codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.ternary(embedding vector, calibration text) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    codes bit varying := qvec.quantize(embedding, calibration, 4);
BEGIN
    RETURN qvec.ternary(codes, length(codes) / 4);
END $$;
COMMENT ON FUNCTION qvec.ternary(vector, text) IS 'The ternary code of a vector: two bits for each dimension, their Hamming distance that of the levels -1, 0, 1';

CREATE OR REPLACE FUNCTION qvec.ternary(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.ternary(embedding::vector, calibration);
COMMENT ON FUNCTION qvec.ternary(halfvec, text) IS 'The ternary code of a vector: two bits for each dimension, their Hamming distance that of the levels -1, 0, 1';

-- Every sum is of whole numbers below 2^24, which float32 adds exactly in any order.
CREATE OR REPLACE FUNCTION qvec.learned(codes bit, calibration text) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
    width integer := length(codes) / 8;
    steps vector;
BEGIN
    SELECT dimensions, projection, bias INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(calibration) USING ERRCODE = 'no_data_found';
    ELSIF k.projection IS NULL THEN
        RAISE EXCEPTION 'calibration % has no learned bits', calibration
            USING HINT = 'Make one that has: qvec adapt', ERRCODE = 'invalid_parameter_value';
    ELSIF qvec._planes_held(codes, k.dimensions) <> 8 THEN
        RAISE EXCEPTION 'the codes have % planes, learned bits need 8', qvec._planes_held(codes, k.dimensions)
            USING ERRCODE = 'data_exception';
    END IF;
    steps := (
        SELECT array_agg((get_bit(codes, i) << 8) + (get_bit(codes, width + i) << 7) + (get_bit(codes, 2 * width + i) << 6)
                         + (get_bit(codes, 3 * width + i) << 5) + (get_bit(codes, 4 * width + i) << 4)
                         + (get_bit(codes, 5 * width + i) << 3) + (get_bit(codes, 6 * width + i) << 2)
                         + (get_bit(codes, 7 * width + i) << 1) - 255 ORDER BY i)
        FROM generate_series(0, k.dimensions - 1) AS i)::vector;
    RETURN (SELECT string_agg(CASE WHEN b - (w <#> steps) > 0 THEN '1' ELSE '0' END, '' ORDER BY j)
            FROM unnest(k.projection, k.bias) WITH ORDINALITY AS u (w, b, j))::bit varying;
END $$;
COMMENT ON FUNCTION qvec.learned(bit, text) IS 'The learned bits of codes of 8 planes';

CREATE OR REPLACE FUNCTION qvec.learned(embedding vector, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.learned(qvec.quantize(embedding, calibration, 8), calibration);
COMMENT ON FUNCTION qvec.learned(vector, text) IS 'The learned bits of a vector, of a calibration that has them';

CREATE OR REPLACE FUNCTION qvec.learned(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.learned(embedding::vector, calibration);
COMMENT ON FUNCTION qvec.learned(halfvec, text) IS 'The learned bits of a vector, of a calibration that has them';

CREATE OR REPLACE FUNCTION qvec._planes_held(codes bit, dimensions integer) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    width integer := (dimensions + 7) / 8 * 8;
BEGIN
    IF length(codes) % width <> 0 OR length(codes) / width NOT BETWEEN 1 AND 8 THEN
        RAISE EXCEPTION 'the codes have % bits, expected 1 to 8 planes of %', length(codes), width
            USING ERRCODE = 'data_exception';
    END IF;
    RETURN length(codes) / width;
END $$;
COMMENT ON FUNCTION qvec._planes_held(bit, integer) IS 'How many planes codes of so many dimensions have';

-- With p planes a code c stands for threshold + (c + 1/2 - 2^(p-1)) * radius / 2^(p-1), each operation rounded to
-- float32; with one plane for threshold + deviation or threshold - deviation.
CREATE OR REPLACE FUNCTION qvec._decoded(codes bit, calibration text) RETURNS float8[]
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
    planes integer;
    width integer;
    half integer;
    padded bit varying;
BEGIN
    SELECT dimensions, threshold, radius, deviation INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(calibration) USING ERRCODE = 'no_data_found';
    END IF;
    planes := qvec._planes_held(codes, k.dimensions);
    width := length(codes) / planes;
    half := 1 << planes - 1;
    IF planes = 1 THEN
        RETURN ARRAY(
            SELECT qvec._float32(t + (2 * get_bit(codes, i::int - 1) - 1) * d::float8)
            FROM unnest(k.threshold::real[], k.deviation::real[]) WITH ORDINALITY AS u (t, d, i));
    END IF;
    padded := codes || repeat('0', (8 - planes) * width)::bit varying;
    RETURN ARRAY(
        SELECT qvec._float32(t + qvec._float32((level + 0.5::float8 - half) * qvec._float32(r::float8 / half)))
        FROM unnest(k.threshold::real[], k.radius::real[]) WITH ORDINALITY AS u (t, r, i),
            LATERAL (SELECT i::int - 1 AS at OFFSET 0) AS place,
            LATERAL (SELECT ((get_bit(padded, at) << 7) + (get_bit(padded, width + at) << 6)
                             + (get_bit(padded, 2 * width + at) << 5) + (get_bit(padded, 3 * width + at) << 4)
                             + (get_bit(padded, 4 * width + at) << 3) + (get_bit(padded, 5 * width + at) << 2)
                             + (get_bit(padded, 6 * width + at) << 1) + get_bit(padded, 7 * width + at)) >> 8 - planes
                            AS level OFFSET 0) AS c
        ORDER BY i);
END $$;
COMMENT ON FUNCTION qvec._decoded(bit, text) IS 'What codes stand for, as float64';

CREATE OR REPLACE FUNCTION qvec.dequantize(codes bit, calibration text) RETURNS vector
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec._decoded(codes, calibration)::vector;
COMMENT ON FUNCTION qvec.dequantize(bit, text) IS 'The vector that codes stand for, of however many planes they have';

-- Under cosine vectors had length 1; what fewer than 8 planes stand for has not, and is divided by its own.
CREATE OR REPLACE FUNCTION qvec._by_length(codes bit, calibration text) RETURNS boolean
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (SELECT metadata ->> 'metric' = 'cosine' AND qvec._planes_held(codes, dimensions) < 8
            FROM qvec.calibration AS stored WHERE stored.id = calibration);
COMMENT ON FUNCTION qvec._by_length(bit, text) IS 'Whether scores of codes are divided by the length of what they stand for';

CREATE OR REPLACE FUNCTION qvec.score(codes bit, query vector, calibration text) RETURNS float8
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (SELECT CASE WHEN qvec._by_length(codes, calibration) THEN coalesce(sum(x * q) / nullif(sqrt(sum(x * x)), 0), 0)
                        ELSE sum(x * q) END
            FROM unnest(qvec._decoded(codes, calibration), qvec._prepared(query, calibration)::real[]) AS u (x, q));
COMMENT ON FUNCTION qvec.score(bit, vector, text) IS 'An estimate of the metric: the inner product of a query and the vector that codes stand for, under cosine with fewer than 8 planes divided by its length. The query is normalized under cosine';

CREATE OR REPLACE FUNCTION qvec.score(codes bit, query halfvec, calibration text) RETURNS float8
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.score(codes, query::vector, calibration);
COMMENT ON FUNCTION qvec.score(bit, halfvec, text) IS 'An estimate of the metric: the inner product of a query and the vector that codes stand for, under cosine with fewer than 8 planes divided by its length. The query is normalized under cosine';

CREATE OR REPLACE FUNCTION qvec.hamming(codes bit, query bit) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN bit_count(substring(codes FROM 1 FOR length(query)) # query)::int;
COMMENT ON FUNCTION qvec.hamming(bit, bit) IS 'In how many bits a query differs from codes, of which the beginning is compared where they are longer';

-- Collections

CREATE TABLE IF NOT EXISTS qvec.collection (
    name text PRIMARY KEY CHECK (name <> ''),
    relation regclass NOT NULL UNIQUE,
    calibration text NOT NULL REFERENCES qvec.calibration (id),
    id_type text NOT NULL CHECK (id_type IN ('bigint', 'text')),
    rescore text NOT NULL CHECK (rescore IN ('int8', 'int4', 'binary', 'float16', 'float32')),
    prefilter text NOT NULL CHECK (prefilter IN ('ternary', 'binary', 'learned')),
    oversampling real NOT NULL DEFAULT 4 CHECK (oversampling >= 1),
    model text,
    created_at timestamptz NOT NULL DEFAULT now(),
    embedding jsonb CHECK (jsonb_typeof(embedding) = 'object')
);
COMMENT ON TABLE qvec.collection IS 'A named table of rows that share one calibration';
COMMENT ON COLUMN qvec.collection.embedding IS 'How its texts are embedded, beyond the model: model_name on a server, task, query_prefix, document_prefix';

CREATE TABLE IF NOT EXISTS qvec.ingest (
    collection text NOT NULL REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    source text NOT NULL,
    fingerprint text NOT NULL,
    first_id bigint,
    position bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    rejects_size bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, source)
);
COMMENT ON TABLE qvec.ingest IS 'How far each source has been loaded; written in the transaction that writes its rows';

CREATE TABLE IF NOT EXISTS qvec.attachment (
    collection text PRIMARY KEY REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    id_column name NOT NULL,
    vector_column name NOT NULL,
    codes_column name NOT NULL,
    document_column name,
    metadata_column name,
    blocks_done bigint NOT NULL DEFAULT 0,
    blocks_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_skipped bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.attachment IS 'A collection that is an application''s own table: its columns, and how far qvec.backfill has come';
COMMENT ON COLUMN qvec.attachment.rows_skipped IS 'Rows without codes, since their vector has no direction or another length';

-- Whoever drops a collection drops its table, but an application's own table stays: detaching it comes first.
CREATE OR REPLACE FUNCTION qvec._refuse_drop() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM qvec.attachment WHERE collection = OLD.name) THEN
        RAISE EXCEPTION 'collection % is an attached table; take its codes away with qvec.detach', quote_literal(OLD.name)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN OLD;
END $$;
COMMENT ON FUNCTION qvec._refuse_drop() IS 'Trigger: an attached table is detached, not dropped';

CREATE OR REPLACE TRIGGER attached BEFORE DELETE ON qvec.collection
    FOR EACH ROW EXECUTE FUNCTION qvec._refuse_drop();

-- Another version of a collection is its rows by another calibration, in a table that is a collection of its own: one
-- that is being built or, exchanged with it, the one before. What is written to the collection meanwhile is noted in a
-- table beside it, which everybody may add to who can reach it: so whoever may write to the collection still can.
CREATE TABLE IF NOT EXISTS qvec.version (
    collection text PRIMARY KEY REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    name text NOT NULL UNIQUE REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('new', 'old')),
    changes regclass NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.version IS 'The other version of a collection, which qvec recalibrate builds and keeps';
COMMENT ON COLUMN qvec.version.changes IS 'Table of the ids that were written to the collection and not yet to this version';

CREATE OR REPLACE FUNCTION qvec._note_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    note text := format('INSERT INTO %s (id, vector) VALUES ($1, $2)', TG_ARGV[0]);
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'table % has another version, which would keep the rows', TG_RELID::regclass
            USING HINT = 'Drop that version first (qvec recalibrate --drop-old), or DELETE the rows.',
                  ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF TG_OP = 'INSERT' THEN
        EXECUTE note USING NEW.id, true;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE note USING OLD.id, false;
    ELSIF OLD.id = NEW.id THEN
        EXECUTE note USING NEW.id, OLD.codes IS DISTINCT FROM NEW.codes;
    ELSE
        EXECUTE note USING OLD.id, false;
        EXECUTE note USING NEW.id, true;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qvec._note_change() IS 'Trigger of a collection that has another version: notes which rows change, and whether their codes do';

CREATE OR REPLACE FUNCTION qvec._drop_version() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    kept regclass := (SELECT c.relation FROM qvec.collection AS c WHERE c.name = OLD.collection);
    other regclass;
BEGIN
    DELETE FROM qvec.collection AS c WHERE c.name = OLD.name RETURNING c.relation INTO other;
    IF other IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', other);
    END IF;
    IF kept IS NOT NULL THEN
        EXECUTE format('DROP TRIGGER IF EXISTS qvec_changes ON %s', kept);
        EXECUTE format('DROP TRIGGER IF EXISTS qvec_truncate ON %s', kept);
    END IF;
    EXECUTE format('DROP TABLE %s', OLD.changes);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qvec._drop_version() IS 'Trigger: a version goes with its table, and with the collection that it is one of';

CREATE OR REPLACE TRIGGER dropped AFTER DELETE ON qvec.version
    FOR EACH ROW EXECUTE FUNCTION qvec._drop_version();

-- What a search needs to know of a collection: expressions over its table's columns, quoted.
CREATE OR REPLACE FUNCTION qvec._layout(
    collection text, OUT relation regclass, OUT source text, OUT calibration text, OUT metric text,
    OUT dimensions integer, OUT width integer, OUT rescore text, OUT prefilter text, OUT planes integer,
    OUT oversampling real, OUT id text, OUT codes text, OUT embedding text, OUT document text, OUT metadata text,
    OUT float_type text, OUT prefilter_codes text, OUT attached boolean)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    c record;
BEGIN
    SELECT s.*, a.collection IS NOT NULL AS attached, k.dimensions, k.metadata ->> 'metric' AS metric,
           format('%I.%I', nspname, relname) AS source, (k.metadata ->> 'cut_from')::int AS cut_from,
           a.id_column, a.codes_column, a.vector_column, a.document_column, a.metadata_column
    INTO c
    FROM qvec.collection AS s JOIN qvec.calibration AS k ON k.id = s.calibration
    JOIN pg_class ON pg_class.oid = s.relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN qvec.attachment AS a ON a.collection = s.name
    WHERE s.name = _layout.collection;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no collection %', quote_literal(collection)
            USING HINT = 'There are: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM qvec.collection), 'none'),
                  ERRCODE = 'undefined_table';
    END IF;
    relation := c.relation; source := c.source; calibration := c.calibration; metric := c.metric;
    dimensions := c.dimensions; rescore := c.rescore; prefilter := c.prefilter; oversampling := c.oversampling;
    attached := c.attached;
    width := (dimensions + 7) / 8 * 8;
    planes := CASE rescore WHEN 'int8' THEN 8 WHEN 'int4' THEN 4 WHEN 'binary' THEN 1 END;
    id := quote_ident(coalesce(c.id_column, 'id'));
    codes := quote_ident(coalesce(c.codes_column, 'codes'));
    embedding := quote_ident(coalesce(c.vector_column, 'embedding'));
    IF attached AND c.cut_from > dimensions THEN
        embedding := format('subvector(%s, 1, %s)', embedding, dimensions);
    END IF;
    document := CASE WHEN attached AND c.document_column IS NULL THEN 'NULL::text'
                     ELSE quote_ident(coalesce(c.document_column, 'document')) END;
    metadata := CASE WHEN attached AND c.metadata_column IS NULL THEN 'NULL::jsonb'
                     ELSE quote_ident(coalesce(c.metadata_column, 'metadata')) END;
    float_type := CASE WHEN attached THEN (SELECT atttypid::regtype::text FROM pg_attribute
                                           WHERE attrelid = c.relation AND attname = c.vector_column)
                       ELSE CASE rescore WHEN 'float16' THEN 'halfvec' ELSE 'vector' END END;
    prefilter_codes := CASE
        WHEN planes IS NULL THEN format('(%s)', codes)
        WHEN prefilter = 'learned' THEN '(learned)'
        WHEN prefilter = 'ternary' THEN format('(qvec.ternary(%s, %s)::bit(%s))', codes, width, 2 * width)
        ELSE format('(substring(%s from 1 for %s)::bit(%s))', codes, width, width)
    END;
END $$;
COMMENT ON FUNCTION qvec._layout(text) IS 'What a collection''s table holds, as its few settings imply it';

CREATE OR REPLACE FUNCTION qvec._codes(embedding vector, calibration text, rescore text, prefilter text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN rescore IN ('float16', 'float32') AND prefilter = 'ternary' THEN qvec.ternary(embedding, calibration)
        WHEN rescore IN ('float16', 'float32') AND prefilter = 'learned' THEN qvec.learned(embedding, calibration)
        ELSE qvec.quantize(embedding, calibration, CASE rescore WHEN 'int8' THEN 8 WHEN 'int4' THEN 4 ELSE 1 END)
    END;
COMMENT ON FUNCTION qvec._codes(vector, text, text, text) IS 'What the codes column of a collection holds for a vector';

CREATE OR REPLACE FUNCTION qvec._fill_row() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    calibration text := TG_ARGV[0];
    rescore text := TG_ARGV[1];
BEGIN
    NEW.codes := qvec._codes(NEW.embedding_in, calibration, rescore, TG_ARGV[2]);
    IF TG_ARGV[2] = 'learned' AND rescore IN ('int8', 'int4') THEN
        NEW.learned := qvec.learned(NEW.embedding_in, calibration);
    END IF;
    IF rescore IN ('float16', 'float32') THEN
        NEW.embedding := qvec._prepared(NEW.embedding_in, calibration);
    END IF;
    NEW.embedding_in := NULL;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qvec._fill_row() IS 'Trigger of a collection: codes, and floats where they are kept, from embedding_in';

CREATE OR REPLACE FUNCTION qvec._learned_bits(calibration text) RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT cardinality(bias) FROM qvec.calibration AS stored WHERE stored.id = calibration);
COMMENT ON FUNCTION qvec._learned_bits(text) IS 'How many learned bits a calibration has, NULL for none';

CREATE OR REPLACE FUNCTION qvec._check_collection(
    name text, calibration text, rescore text, prefilter text, oversampling float8) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    bits integer;
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 63 OR name ~ '[%[:cntrl:]]' THEN
        RAISE EXCEPTION 'collection name % is not 1 to 63 printable bytes without %%', quote_nullable(name)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF EXISTS (SELECT FROM qvec.collection AS c WHERE c.name = _check_collection.name) THEN
        RAISE EXCEPTION 'collection % exists already', quote_literal(name) USING ERRCODE = 'duplicate_object';
    ELSIF NOT EXISTS (SELECT FROM qvec.calibration AS k WHERE k.id = calibration) THEN
        RAISE EXCEPTION 'no calibration %', quote_nullable(calibration)
            USING HINT = 'Store one with qvec.calibrate or qvec.import_calibration.', ERRCODE = 'no_data_found';
    ELSIF coalesce(rescore, '') NOT IN ('int8', 'int4', 'binary', 'float16', 'float32') THEN
        RAISE EXCEPTION 'rescore is %, expected int8, int4, binary, float16 or float32', quote_nullable(rescore)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    bits := qvec._learned_bits(calibration);
    prefilter := coalesce(prefilter, CASE WHEN rescore = 'binary' THEN 'binary' WHEN bits > 0 THEN 'learned' ELSE 'ternary' END);
    IF prefilter NOT IN ('ternary', 'binary', 'learned') THEN
        RAISE EXCEPTION 'prefilter is %, expected ternary, binary or learned', quote_nullable(prefilter)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF rescore = 'binary' AND prefilter <> 'binary' THEN
        RAISE EXCEPTION 'prefilter is %, but rescore ''binary'' keeps one bit: expected binary', quote_literal(prefilter)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF prefilter = 'learned' AND bits IS NULL THEN
        RAISE EXCEPTION 'prefilter is ''learned'', but calibration % has no learned bits', calibration
            USING HINT = 'Make one that has: qvec adapt', ERRCODE = 'invalid_parameter_value';
    ELSIF oversampling IS NULL OR NOT oversampling >= 1 OR oversampling > 1e6 THEN
        RAISE EXCEPTION 'oversampling is %, expected at least 1', oversampling USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN prefilter;
END $$;
COMMENT ON FUNCTION qvec._check_collection(text, text, text, text, float8) IS 'Refuses settings that no collection can have; returns the prefilter, chosen where it is NULL';

-- Codes, and floats, stay in the row as long as two such rows fit a page, as in the collections that Python creates.
CREATE OR REPLACE FUNCTION qvec.create_collection(
    name text, calibration text, rescore text DEFAULT 'int8', prefilter text DEFAULT NULL,
    id_type text DEFAULT 'bigint', oversampling float8 DEFAULT 4, model text DEFAULT NULL,
    in_schema name DEFAULT current_schema()) RETURNS regclass
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    page integer := 8160;
    chosen text := qvec._check_collection(name, calibration, rescore, prefilter, oversampling);
    d integer := (SELECT dimensions FROM qvec.calibration AS k WHERE k.id = calibration);
    width integer := (d + 7) / 8 * 8;
    bits integer := CASE rescore WHEN 'int8' THEN 8 * width WHEN 'int4' THEN 4 * width WHEN 'binary' THEN width
        ELSE CASE chosen WHEN 'learned' THEN qvec._learned_bits(calibration) WHEN 'ternary' THEN 2 * width ELSE width END END;
    learned integer := CASE WHEN chosen = 'learned' AND rescore IN ('int8', 'int4') THEN qvec._learned_bits(calibration) END;
    code_bytes integer := 64 + (bits + coalesce(learned, 0)) / 8;
    row_bytes integer := code_bytes + CASE rescore WHEN 'float16' THEN 2 * d WHEN 'float32' THEN 4 * d ELSE 0 END;
    floats text := CASE rescore WHEN 'float16' THEN 'halfvec' WHEN 'float32' THEN 'vector' END;
    relation regclass;
BEGIN
    IF id_type IS NULL OR id_type NOT IN ('bigint', 'text') THEN
        RAISE EXCEPTION 'id_type is %, expected bigint or text', quote_nullable(id_type)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF in_schema IS NULL THEN
        RAISE EXCEPTION 'there is no schema on the search_path to create the table in; name one: in_schema'
            USING ERRCODE = 'invalid_schema_name';
    END IF;
    EXECUTE format(
        'CREATE TABLE %I.%I (id %s PRIMARY KEY, codes bit(%s) NOT NULL,%s%s document text, metadata jsonb)'
        ' WITH (toast_tuple_target = %s)',
        in_schema, name, id_type, bits, ' learned bit(' || learned || ') NOT NULL,', CASE WHEN floats IS NULL THEN '' ELSE format(' embedding %s(%s) NOT NULL,', floats, d) END,
        least(greatest(CASE WHEN row_bytes <= page / 2 THEN row_bytes ELSE code_bytes END + 500, 2040), page));
    relation := format('%I.%I', in_schema, name)::regclass;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN codes SET STORAGE %s',
                   relation, CASE WHEN code_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    IF learned IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN learned SET STORAGE %s',
                       relation, CASE WHEN code_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    END IF;
    IF floats IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN embedding SET STORAGE %s',
                       relation, CASE WHEN row_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    END IF;
    INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling, model)
        VALUES (name, relation, calibration, id_type, rescore, chosen, oversampling, model);
    PERFORM qvec.accept_vectors(name);
    RETURN relation;
END $$;
COMMENT ON FUNCTION qvec.create_collection(text, text, text, text, text, float8, text, name) IS 'Creates a collection and its table, into which INSERT INTO name (id, embedding_in, document, metadata) writes; build its index when it is filled';

CREATE OR REPLACE FUNCTION qvec.accept_vectors(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
BEGIN
    IF layout.attached THEN
        RAISE EXCEPTION 'collection % is an attached table: its own vectors are quantized', quote_literal(collection)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS embedding_in vector', layout.source);
    EXECUTE format('COMMENT ON COLUMN %s.embedding_in IS %L', layout.source,
                   'Takes a vector on INSERT and UPDATE; a trigger turns it into codes, and it is stored as NULL');
    EXECUTE format('CREATE OR REPLACE TRIGGER qvec_fill BEFORE INSERT OR UPDATE ON %s FOR EACH ROW'
                   ' WHEN (NEW.embedding_in IS NOT NULL) EXECUTE FUNCTION qvec._fill_row(%L, %L, %L)',
                   layout.source, layout.calibration, layout.rescore, layout.prefilter);
END $$;
COMMENT ON FUNCTION qvec.accept_vectors(text) IS 'Gives a collection that Python created the column embedding_in, so that plain INSERT can write to it';

CREATE OR REPLACE FUNCTION qvec.drop_collection(name text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(name);
BEGIN
    DELETE FROM qvec.collection AS c WHERE c.name = drop_collection.name;
    EXECUTE format('DROP TABLE %s', layout.source);
END $$;
COMMENT ON FUNCTION qvec.drop_collection(text) IS 'Drops a collection with all its rows; its calibration stays';

-- Of a long name the beginning and a hash, within the 63 bytes of a name, as Python calls it.
CREATE OR REPLACE FUNCTION qvec._index_name(table_name name) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    bytes bytea := convert_to(table_name::text, 'UTF8');
    kept integer := 45;
BEGIN
    IF length(bytes) <= 54 THEN
        RETURN table_name || '_qvec_idx';
    END IF;
    WHILE get_byte(bytes, kept) BETWEEN 128 AND 191 LOOP  -- the rest of a character that has begun before
        kept := kept - 1;
    END LOOP;
    RETURN convert_from(substring(bytes FOR kept), 'UTF8') || '_' || left(encode(sha256(bytes), 'hex'), 8) || '_qvec_idx';
END $$;
COMMENT ON FUNCTION qvec._index_name(name) IS 'Name of the index of a collection''s table';

CREATE OR REPLACE FUNCTION qvec.index_statement(collection text, concurrent boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
BEGIN
    RETURN (
        SELECT format('CREATE INDEX %s IF NOT EXISTS %I ON %s USING hnsw (%s %I.bit_hamming_ops)',
                      CASE WHEN concurrent THEN 'CONCURRENTLY' ELSE '' END, qvec._index_name(relname), layout.source,
                      layout.prefilter_codes, (SELECT nspname FROM pg_extension JOIN pg_namespace AS n
                                               ON n.oid = extnamespace WHERE extname = 'vector'))
        FROM pg_class WHERE oid = layout.relation);
END $$;
COMMENT ON FUNCTION qvec.index_statement(text, boolean) IS 'The statement that builds a collection''s index; concurrently it must be run by itself, outside a function (psql: \gexec)';

CREATE OR REPLACE FUNCTION qvec.build_index(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE qvec.index_statement(collection, concurrent => false);
END $$;
COMMENT ON FUNCTION qvec.build_index(text) IS 'Builds a collection''s index now, in this transaction: searches go on meanwhile, writes wait';

CREATE OR REPLACE VIEW qvec.collections AS
    SELECT c.name, c.relation, nullif(greatest(r.reltuples, -1), -1)::bigint AS rows_estimated, k.dimensions,
           c.rescore, c.prefilter, c.oversampling, c.model, c.calibration, a.collection IS NOT NULL AS attached,
           pg_total_relation_size(c.relation) - coalesce(i.bytes, 0) AS table_bytes, coalesce(i.bytes, 0) AS index_bytes,
           coalesce(i.valid, false) AS has_index, c.created_at
    FROM qvec.collection AS c
    JOIN qvec.calibration AS k ON k.id = c.calibration
    JOIN pg_class AS r ON r.oid = c.relation
    LEFT JOIN qvec.attachment AS a ON a.collection = c.name
    LEFT JOIN LATERAL (
        SELECT sum(pg_relation_size(indexrelid))::bigint AS bytes, bool_or(indisvalid) AS valid
        FROM pg_index JOIN pg_class AS x ON x.oid = indexrelid
        WHERE indrelid = c.relation AND x.relname = qvec._index_name(r.relname)) AS i ON true;
COMMENT ON VIEW qvec.collections IS 'The collections, with sizes on disk; rows_estimated is as of the last ANALYZE or VACUUM';

-- Filters: the language of the SDK, compiled to SQL. No row makes a condition fail: what is cast is looked at first.

CREATE OR REPLACE FUNCTION qvec._iso_date() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '^(?:((?:(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)'
        '|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)'
        '-02-29))(?:[T ]((?:[01][0-9]|2[0-3]):[0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?'
        '(Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)?)?)?)$';
COMMENT ON FUNCTION qvec._iso_date() IS 'Which strings are dates: a regular expression';

-- Without a zone it is UTC; digits below the microsecond are cut off, where Postgres would round.
CREATE OR REPLACE FUNCTION qvec._instant(text text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN text ~ qvec._iso_date() THEN
        (regexp_replace(text, '(\.[0-9]{6})[0-9]+', '\1')
         || CASE WHEN text ~ ':[0-9.]+(Z|[+-][0-9:]+)$' THEN '' ELSE 'Z' END)::timestamptz END;
COMMENT ON FUNCTION qvec._instant(text) IS 'The instant of a string that is an ISO 8601 date, NULL of another';
CREATE OR REPLACE FUNCTION qvec._bad_filter(field text, wanted text, operand jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION '%: % found, % wanted', field, coalesce(left(operand::text, 60), 'nothing'), wanted
        USING ERRCODE = 'invalid_parameter_value';
END $$;
COMMENT ON FUNCTION qvec._bad_filter(text, text, jsonb) IS 'Raises the error about an operand that a filter cannot have';

CREATE OR REPLACE FUNCTION qvec._equals(value text, operand jsonb, field text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE jsonb_typeof(operand)
        WHEN 'object' THEN qvec._bad_filter(field, 'a string, number, true, false or null', operand)
        WHEN 'array' THEN qvec._bad_filter(field, 'a string, number, true, false or null', operand)
        WHEN 'number' THEN format('((jsonb_typeof(%1$s) = ''number'' AND %1$s = %2$L::jsonb)'
                                  ' OR (jsonb_typeof(%1$s) = ''array'' AND %1$s @> %2$L::jsonb))', value, operand)
        ELSE format('(%s @> %L::jsonb)', value, operand)
    END;
COMMENT ON FUNCTION qvec._equals(text, jsonb, text) IS 'SQL of $eq';

-- What an ordering operator takes the operand for: a string that is a date is an instant.
CREATE OR REPLACE FUNCTION qvec._ordered_kind(operand jsonb, field text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    kind text := jsonb_typeof(operand);
BEGIN
    IF kind IS NULL OR kind NOT IN ('number', 'string') THEN
        RETURN qvec._bad_filter(field, 'a number, string or date', operand);
    ELSIF kind = 'string' AND qvec._instant(operand #>> '{}') IS NOT NULL THEN
        IF extract(year FROM qvec._instant(operand #>> '{}') AT TIME ZONE 'UTC') NOT BETWEEN 1 AND 9999 THEN
            RETURN qvec._bad_filter(field, 'a date that is in the years 1 to 9999 in UTC', operand);
        END IF;
        RETURN 'instant';
    END IF;
    RETURN kind;
END $$;
COMMENT ON FUNCTION qvec._ordered_kind(jsonb, text) IS 'Kind of an operand that has an order: number, string or instant';

-- A test of one value, which is of the operand's kind. Of strings the first 64 characters are compared first: so much
-- an index of the SDK holds.
CREATE OR REPLACE FUNCTION qvec._test(value text, operator text, kind text, operand jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE kind
        WHEN 'number' THEN format('%s %s %L::jsonb', value, operator, operand)
        WHEN 'string' THEN format(
            'left(%1$s #>> ''{}'', 64) COLLATE "C" %2$s= %3$L::text AND %1$s #>> ''{}'' %4$s %5$L::text COLLATE "C"',
            value, left(operator, 1), left(operand #>> '{}', 64), operator, operand #>> '{}')
        WHEN 'instant' THEN format('qvec._instant(%s #>> ''{}'') %s %L::timestamptz', value, operator, to_char(
            qvec._instant(operand #>> '{}') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
        ELSE format('(%s #>> ''{}'') COLLATE "C" %s %L', value, operator, operand #>> '{}')
    END;
COMMENT ON FUNCTION qvec._test(text, text, text, jsonb) IS 'SQL of a range''s side or a pattern on one value';

-- Tests that one value has to pass: the field's own or, where it is an array, any element.
CREATE OR REPLACE FUNCTION qvec._any_value(value text, kind text, operators text[], operands jsonb[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT format(
            '((jsonb_typeof(%1$s) = %2$L AND %3$s) OR (jsonb_typeof(%1$s) = ''array'' AND EXISTS (SELECT FROM'
            ' jsonb_array_elements(CASE WHEN jsonb_typeof(%1$s) = ''array'' THEN %1$s END) AS element(value)'
            ' WHERE jsonb_typeof(element.value) = %2$L AND %4$s)))',
            value, CASE kind WHEN 'number' THEN kind ELSE 'string' END,
            string_agg(qvec._test(value, operator, kind, operand), ' AND '),
            string_agg(qvec._test('element.value', operator, kind, operand), ' AND '))
        FROM unnest(operators, operands) AS u (operator, operand));
COMMENT ON FUNCTION qvec._any_value(text, text, text[], jsonb[]) IS 'SQL of tests on any value of a field';

CREATE OR REPLACE FUNCTION qvec._operator(value text, field text, operator text, operand jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    name text := format('field %L: %s', field, operator);
    sides jsonb := '{"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}';
BEGIN
    IF operator IN ('$ne', '$nin') THEN
        RETURN format('(%s IS NOT TRUE)', qvec._operator(
            value, field, CASE operator WHEN '$ne' THEN '$eq' ELSE '$in' END, operand, depth));
    ELSIF operator = '$eq' THEN
        RETURN qvec._equals(value, operand, name);
    ELSIF sides ? operator THEN
        RETURN qvec._any_value(value, qvec._ordered_kind(operand, name), ARRAY[sides ->> operator], ARRAY[operand]);
    ELSIF operator = '$between' THEN
        IF jsonb_typeof(operand) <> 'array' OR jsonb_array_length(operand) <> 2
           OR qvec._ordered_kind(operand -> 0, name) <> qvec._ordered_kind(operand -> 1, name) THEN
            RETURN qvec._bad_filter(name, 'a list of two of one kind, [low, high],', operand);
        END IF;
        RETURN qvec._any_value(value, qvec._ordered_kind(operand -> 0, name), '{>=,<=}',
                               ARRAY[operand -> 0, operand -> 1]);
    ELSIF operator = '$in' OR operator = '$contains' AND jsonb_typeof(operand) = 'array' THEN
        IF jsonb_typeof(operand) <> 'array' OR operator = '$contains' AND operand = '[]' THEN
            RETURN qvec._bad_filter(name, 'a list of scalars', operand);
        END IF;
        RETURN (
            SELECT coalesce('(' || string_agg(qvec._equals(value, item, name),
                                              CASE operator WHEN '$in' THEN ' OR ' ELSE ' AND ' END) || ')', 'false')
            FROM jsonb_array_elements(operand) AS u (item));
    ELSIF operator = '$contains' THEN
        RETURN qvec._equals(value, operand, name);
    ELSIF operator = '$exists' THEN
        IF jsonb_typeof(operand) <> 'boolean' THEN
            RETURN qvec._bad_filter(name, 'true or false', operand);
        END IF;
        RETURN format('((%s NOT IN (''null'', ''[]'')) IS %s TRUE)', value, CASE WHEN operand = 'false' THEN 'NOT' ELSE '' END);
    ELSIF operator IN ('$like', '$ilike') THEN
        IF jsonb_typeof(operand) <> 'string' OR operand #>> '{}' ~ '^(.*[^\\])?(\\\\)*\\$' THEN
            RETURN qvec._bad_filter(name, 'a pattern such as "intro%", which ends in no single backslash,', operand);
        END IF;
        RETURN qvec._any_value(value, 'pattern', ARRAY[upper(substr(operator, 2))], ARRAY[operand]);
    ELSIF operator = '$not' THEN
        IF jsonb_typeof(operand) <> 'object' THEN
            RETURN qvec._bad_filter(name, 'an object of operators', operand);
        END IF;
        RETURN format('(%s IS NOT TRUE)', qvec._condition(value, field, operand, depth + 1));
    END IF;
    RAISE EXCEPTION 'field %: % is no operator', quote_literal(field), quote_literal(operator)
        USING HINT = 'There are: $eq $ne $lt $lte $gt $gte $in $nin $between $exists $like $ilike $contains $not',
              ERRCODE = 'invalid_parameter_value';
END $$;
COMMENT ON FUNCTION qvec._operator(text, text, text, jsonb, integer) IS 'SQL of one operator on a field';

CREATE OR REPLACE FUNCTION qvec._condition(value text, field text, operators jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF depth > 50 THEN
        RAISE EXCEPTION 'the filter is nested more than 50 deep; write it flatter' USING ERRCODE = 'invalid_parameter_value';
    ELSIF operators = '{}' THEN
        RETURN qvec._bad_filter(format('field %L', field), 'one operator or more', operators);
    ELSIF jsonb_typeof(operators) = 'object' THEN
        RETURN (SELECT format('(%s)', string_agg(qvec._operator(value, field, key, operand, depth), ' AND '))
                FROM jsonb_each(operators) AS entry (key, operand));
    END IF;
    RETURN qvec._equals(value, operators, format('field %L', field));
END $$;
COMMENT ON FUNCTION qvec._condition(text, text, jsonb, integer) IS 'SQL of what stands under a field: operators, or a scalar';

CREATE OR REPLACE FUNCTION qvec._entry(metadata text, key text, operand jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF key IN ('$and', '$or') THEN
        IF jsonb_typeof(operand) <> 'array' OR operand = '[]' THEN
            RETURN qvec._bad_filter(key, 'a list of one filter or more', operand);
        END IF;
        RETURN (SELECT format('(%s)', string_agg(qvec._conditions(metadata, part, depth + 1),
                                                 CASE key WHEN '$or' THEN ' OR ' ELSE ' AND ' END))
                FROM jsonb_array_elements(operand) AS u (part));
    ELSIF key = '$not' THEN
        RETURN format('(%s IS NOT TRUE)', qvec._conditions(metadata, operand, depth + 1));
    ELSIF left(key, 1) = '$' THEN
        RAISE EXCEPTION '% is no operator of a whole filter', quote_literal(key)
            USING HINT = 'These are: $and $or $not; the others stand under a field: {"field": {"$gte": 1}}',
                  ERRCODE = 'invalid_parameter_value';
    ELSIF '' = ANY (string_to_array(key, '.')) OR key = '' THEN
        RAISE EXCEPTION 'field %: an empty name found, names with one dot between them wanted', quote_literal(key)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN qvec._condition(
        (SELECT format('(%s -> %s)', metadata, string_agg(quote_literal(part), ' -> ' ORDER BY i))
         FROM unnest(string_to_array(key, '.')) WITH ORDINALITY AS u (part, i)),
        key, operand, depth + 1);
END $$;
COMMENT ON FUNCTION qvec._entry(text, text, jsonb, integer) IS 'SQL of one entry of a filter';

CREATE OR REPLACE FUNCTION qvec._conditions(metadata text, filter jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF depth > 50 THEN
        RAISE EXCEPTION 'the filter is nested more than 50 deep; write it flatter' USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(filter) IS DISTINCT FROM 'object' THEN
        RETURN qvec._bad_filter('the filter', 'an object of fields and operators', filter);
    END IF;
    RETURN (SELECT coalesce('(' || string_agg(qvec._entry(metadata, key, operand, depth), ' AND ') || ')', 'true')
            FROM jsonb_each(filter) AS entry (key, operand));
END $$;
COMMENT ON FUNCTION qvec._conditions(text, jsonb, integer) IS 'SQL of a filter on an expression that gives the metadata';

CREATE OR REPLACE FUNCTION qvec.filter_sql(filter jsonb, metadata_column name DEFAULT 'metadata') RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN qvec._conditions(quote_ident(metadata_column), filter, 0);
COMMENT ON FUNCTION qvec.filter_sql(jsonb, name) IS 'A filter as a condition for a WHERE clause that an application builds; names and values are quoted';

CREATE OR REPLACE FUNCTION qvec.matches(metadata jsonb, filter jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    holds boolean;
BEGIN
    EXECUTE 'SELECT ' || qvec._conditions('$1', filter, 0) INTO holds USING metadata;
    RETURN coalesce(holds, false);
END $$;
COMMENT ON FUNCTION qvec.matches(jsonb, jsonb) IS 'Whether a row''s metadata passes a filter: for a WHERE clause over few rows, since it compiles the filter for each';

-- Search

-- A query as it is compared: its prefilter bits, its floats, and what scores codes. With w the query times each
-- dimension's step and its 16 bits D_b as signs, w = factor * sum of 2^b * (2 D_b - 1); and codes of p planes C_a stand
-- for threshold + step * 1/2 * sum of 2^a * (2 C_a - 1). So the inner product is base + scale * sum of 2^(a+b) * hamming(C_a, D_b).
-- `digits` holds the planes of the query, lowest first: those of one a + b then stand beside each other against the codes,
-- whose highest plane is first, and one Hamming distance takes them all.
CREATE OR REPLACE FUNCTION qvec._digits(w vector, OUT factor float8, OUT digits bit varying)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    one vector := array_fill(1::real, ARRAY[vector_dims(w)])::vector;
    z vector := l2_normalize(w);
    twice vector;
BEGIN
    factor := vector_norm(w);
    LOOP
        twice := z + z;
        EXIT WHEN factor = 0 OR bit_count(binary_quantize(twice - one)) > 0
            OR bit_count(binary_quantize((z - z) - twice - one)) > 0;
        z := twice;
        factor := factor / 2;
    END LOOP;
    digits := qvec._signed_digits(z);
    factor := factor / (127 * 512);
END $$;
COMMENT ON FUNCTION qvec._digits(vector) IS 'Numbers as 16 planes of signed digits, lowest first, and what the lowest stands for';

-- Under ip a query's length does not change which rows are best, but the bits of a short one are those of zero. At
-- twice the rows' length the prefilter finds most where lengths differ.
CREATE OR REPLACE FUNCTION qvec._at_row_length(x vector, calibration text) RETURNS vector
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
    one vector;
    wanted real;
BEGIN
    SELECT metadata ->> 'metric' AS metric, mean, std INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF k.metric <> 'ip' THEN
        RETURN x;
    END IF;
    wanted := (SELECT 2 * sqrt(sum(m::float8 * m + s::float8 * s)) FROM unnest(k.mean::real[], k.std::real[]) AS u (m, s));
    IF wanted > 0 AND qvec._squared_norm(x) > 0 THEN
        -- Rounded to multiples of 2^-24, so that no product is too small for float32.
        one := array_fill(1::real, ARRAY[vector_dims(x)])::vector;
        RETURN ((qvec._unit(x) + one) - one) * array_fill(wanted, ARRAY[vector_dims(x)])::vector;
    END IF;
    RETURN x;
END $$;
COMMENT ON FUNCTION qvec._at_row_length(vector, text) IS 'Under ip, the query as its prefilter bits are made of it: at twice the length of rows';

CREATE OR REPLACE FUNCTION qvec._query(
    query vector, calibration text, prefilter text, planes integer,
    OUT bits bit varying, OUT floats vector, OUT base float8, OUT scale float8, OUT digits bit varying)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    one vector;
    steps vector;
    k record;
    d record;
BEGIN
    floats := qvec._prepared(query, calibration);
    IF floats IS NULL THEN
        RAISE EXCEPTION 'the query is NULL, a vector wanted' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    bits := qvec.quantize(qvec._at_row_length(floats, calibration), calibration, CASE prefilter WHEN 'learned' THEN 8 WHEN 'ternary' THEN 4 ELSE 1 END);
    IF prefilter = 'learned' THEN
        bits := qvec.learned(bits, calibration);
    ELSIF prefilter = 'ternary' THEN
        bits := qvec.ternary(bits, length(bits) / 4);
    END IF;
    IF planes IS NULL THEN
        RETURN;
    END IF;
    SELECT threshold, CASE planes WHEN 1 THEN deviation ELSE radius END AS step INTO k
        FROM qvec.calibration AS stored WHERE stored.id = calibration;
    -- Both at norm 1, and rounded to multiples of 2^-23, so that no product of two is too small for float32.
    one := array_fill(1::real, ARRAY[vector_dims(floats)])::vector;
    steps := (l2_normalize(k.step) + one) - one;
    d := qvec._digits(((l2_normalize(floats) + one) - one) * steps);
    digits := d.digits;
    scale := -d.factor * vector_norm(floats) * vector_norm(k.step) * CASE planes WHEN 1 THEN 2 ELSE 2.0 ^ (1 - planes) END;
    base := -(floats <#> k.threshold) - scale / 2 * vector_dims(floats) * (2 ^ planes - 1) * 65535;
END $$;
COMMENT ON FUNCTION qvec._query(vector, text, text, integer) IS 'What a query is compared with';

-- The sum over all pairs of planes, those of one weight 2^s at a time, with WIDTH for the bits of a plane. Called with
-- constants, so that it is worked out once for a session.
CREATE OR REPLACE FUNCTION qvec._score_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT string_agg(
            format('%s * hamming_distance(%s, digits%s)', 2 ^ s,
                   CASE WHEN low = 0 AND high = planes - 1 THEN 'codes'
                        ELSE format('substring(codes from %s * WIDTH + 1 for %s * WIDTH)', planes - 1 - high, high - low + 1)
                   END, s),
            ' + ' ORDER BY s)
        FROM generate_series(0, planes + 14) AS s,
            LATERAL (SELECT greatest(0, s - 15) AS low, least(planes - 1, s) AS high) AS plane);
COMMENT ON FUNCTION qvec._score_sql(integer) IS 'SQL of the weighted Hamming distances of codes and a query''s digits';

CREATE OR REPLACE FUNCTION qvec._digits_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT string_agg(format(', substring(digits from %s * WIDTH + 1 for %s * WIDTH) AS digits%s', s - high, high - low + 1, s), ''
                          ORDER BY s)
        FROM generate_series(0, planes + 14) AS s,
            LATERAL (SELECT greatest(0, s - 15) AS low, least(planes - 1, s) AS high) AS plane);
COMMENT ON FUNCTION qvec._digits_sql(integer) IS 'SQL that cuts a query''s digits as _score_sql wants them';

-- The planes, and behind them those of the pairs that are so many planes apart, from 1 on: what length_digits weighs.
CREATE OR REPLACE FUNCTION qvec._length_bits_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'codes' || coalesce((
        SELECT string_agg(
            format(' || (substring(codes from 1 for %1$s * WIDTH) # substring(codes from %2$s * WIDTH + 1 for %1$s * WIDTH))',
                   planes - apart, apart), '' ORDER BY apart)
        FROM generate_series(1, planes - 1) AS apart), '');
COMMENT ON FUNCTION qvec._length_bits_sql(integer) IS 'SQL of the planes of codes and of all pairs of them';

CREATE OR REPLACE FUNCTION qvec._length_sql() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT 'length_base + length_scale * ('
                || string_agg(format('%s * hamming_distance(pairs, length%s)', 2 ^ b, b), ' + ' ORDER BY b) || ')'
            FROM generate_series(0, 15) AS b);
COMMENT ON FUNCTION qvec._length_sql() IS 'SQL of the squared length of what codes stand for';

-- What qvec._length gave for a calibration, in one row, its digits cut as _length_sql wants them. No squared length is
-- further off than least_length: below that, rows count as having none.
CREATE OR REPLACE FUNCTION qvec._length_source_sql(calibration text, planes integer, dimensions integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT format(
            '(SELECT length_base[%1$s], length_scale[%1$s], -0.51 * length_scale[%1$s] * %2$s AS least_length, %3$s'
            ' FROM qvec.calibration WHERE id = %4$L) AS lengths',
            planes, dimensions * pairs,
            string_agg(format('substring(length_digits[%s] from %s for %s) AS length%s', planes,
                              1 + b * pairs * width, pairs * width, b), ', ' ORDER BY b), calibration)
        FROM generate_series(0, 15) AS b,
            LATERAL (SELECT planes * (planes + 1) / 2 AS pairs, (dimensions + 7) / 8 * 8 AS width) AS w
        GROUP BY pairs);
COMMENT ON FUNCTION qvec._length_source_sql(text, integer, integer) IS 'SQL of what gives the squared length of what a calibration''s codes stand for';

-- The statement for queries in the arrays $1 (prefilter bits), $2 (floats), $3 (base), $4 (scale) and $5 (digits). It
-- tells with each hit how many candidates there were. Without candidates every row is scored.
CREATE OR REPLACE FUNCTION qvec._search_sql(layout record, k integer, candidates integer, filter jsonb) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    condition text := CASE WHEN filter IS NULL THEN 'true' ELSE qvec._conditions(layout.metadata, filter, 0) END;
    query text;
    score text;
    lengths text := '';
    rows text := 'SELECT %s AS id, %s AS codes, %s AS document, %s AS metadata FROM %s WHERE %s%s';
BEGIN
    IF layout.attached THEN
        condition := format('%s AND %s IS NOT NULL', condition, layout.codes);
    END IF;
    IF layout.planes IS NOT NULL THEN
        query := 'bits, base, scale' || replace(
            CASE layout.planes WHEN 8 THEN qvec._digits_sql(8) WHEN 4 THEN qvec._digits_sql(4) ELSE qvec._digits_sql(1) END,
            'WIDTH', layout.width::text);
        score := format('base + scale * (%s)', replace(
            CASE layout.planes WHEN 8 THEN qvec._score_sql(8) WHEN 4 THEN qvec._score_sql(4) ELSE qvec._score_sql(1) END,
            'WIDTH', layout.width::text));
        IF layout.metric = 'cosine' AND layout.planes < 8 THEN
            score := format('coalesce((%s) / sqrt(nullif(greatest(%s, least_length), least_length)), 0)', score, qvec._length_sql());
            query := query || ', lengths.*';
            lengths := ' CROSS JOIN ' || qvec._length_source_sql(layout.calibration, layout.planes, layout.dimensions);
            rows := format('SELECT stored.*, %s AS pairs FROM (%s) AS stored OFFSET 0',
                           replace(qvec._length_bits_sql(layout.planes), 'WIDTH', layout.width::text), rows);
        END IF;
    ELSE
        query := format('bits, floats::%s AS floats', layout.float_type);
        score := CASE WHEN layout.attached AND layout.metric = 'cosine' THEN '1 - (codes <=> floats)'
                      ELSE '-(codes <#> floats)' END;
    END IF;
    rows := format(
        rows, layout.id, CASE WHEN layout.planes IS NULL THEN layout.embedding ELSE layout.codes END, layout.document,
        layout.metadata, layout.source, condition,
        CASE WHEN candidates IS NULL THEN ''
             ELSE format(' ORDER BY %s <~> q.bits LIMIT %s', layout.prefilter_codes, candidates) END);
    RETURN format(
        'SELECT n::int AS query, hit.* FROM (SELECT n, %s FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY'
        ' AS q (bits, floats, base, scale, digits, n)%s OFFSET 0) AS q'
        ' CROSS JOIN LATERAL (SELECT id::text, %s AS score, document, metadata, count(*) OVER () AS found'
        ' FROM (%s) AS candidate ORDER BY score DESC LIMIT %s) AS hit', query, lengths, score, rows, k);
END $$;
COMMENT ON FUNCTION qvec._search_sql(record, integer, integer, jsonb) IS 'The statement of a search';

-- For the index scan, until the transaction ends or the former values are set again; returns those. pgvector stops at
-- ef_search rows, unless it scans on: from 0.8 it can.
CREATE OR REPLACE FUNCTION qvec._set_scan(wanted jsonb) RETURNS jsonb
    LANGUAGE sql VOLATILE
    RETURN (
        SELECT jsonb_object_agg(name, former)
        FROM (SELECT name, current_setting(name, true) AS former, value FROM jsonb_each_text(wanted) AS w (name, value)
              OFFSET 0) AS setting,
            LATERAL (SELECT set_config(name, value, true) WHERE former IS NOT NULL OFFSET 0) AS done);
COMMENT ON FUNCTION qvec._set_scan(jsonb) IS 'Sets the settings that exist, and returns what they were';

CREATE OR REPLACE FUNCTION qvec._scan_settings(candidates integer) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN jsonb_build_object('hnsw.ef_search', least(greatest(candidates, 40), 1000), 'hnsw.iterative_scan', 'relaxed_order')
        || CASE WHEN candidates <= 1000 THEN '{}'
                ELSE jsonb_build_object('hnsw.max_scan_tuples', 50 * least(candidates, 40000000), 'hnsw.scan_mem_multiplier', 8) END;
COMMENT ON FUNCTION qvec._scan_settings(integer) IS 'Settings of the index scan for so many candidates';

CREATE OR REPLACE FUNCTION qvec._candidates(layout record, k integer, oversampling float8, candidates integer) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    factor float8 := coalesce(oversampling, layout.oversampling::numeric);
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION 'k is %, expected at least 1', coalesce(k::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT factor BETWEEN 1 AND 1e6 THEN
        RAISE EXCEPTION 'oversampling is %, expected at least 1', factor USING ERRCODE = 'invalid_parameter_value';
    ELSIF candidates < k THEN
        RAISE EXCEPTION 'candidates is %, expected at least k, which is %', candidates, k
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN coalesce(candidates, least(ceil(k * factor), 2147483647)::int);
END $$;
COMMENT ON FUNCTION qvec._candidates(record, integer, float8, integer) IS 'How many rows the prefilter is asked for';

-- The table that a search found by its snapshot may have been exchanged for another version since, and its name be that
-- of the other. So it is taken by what it is, under the name that it has now, which it keeps while it is read: the lock
-- that reading takes stays to the end of the transaction.
CREATE OR REPLACE FUNCTION qvec._held(relation regclass) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    name text;
BEGIN
    LOOP
        name := (SELECT identity FROM pg_identify_object('pg_class'::regclass, relation, 0));
        IF name IS NULL THEN
            RAISE EXCEPTION 'the collection was exchanged for another version, and this one dropped'
                USING HINT = 'Search again, in a new transaction.', ERRCODE = 'serialization_failure';
        END IF;
        BEGIN
            EXECUTE format('SELECT FROM %s LIMIT 0', name);
            EXIT WHEN to_regclass(name) = relation;
        EXCEPTION WHEN undefined_table THEN
            NULL;  -- renamed in between
        END;
    END LOOP;
    RETURN name;
END $$;
COMMENT ON FUNCTION qvec._held(regclass) IS 'The qualified name of a table, which keeps it until the transaction ends';

CREATE OR REPLACE FUNCTION qvec._run_search(
    collection text, queries vector[], k integer, oversampling float8, filter jsonb, candidates integer, exact boolean)
    RETURNS TABLE (query integer, id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    wanted integer := qvec._candidates(layout, k, oversampling, candidates);
    everything boolean := coalesce(exact, false)
        OR wanted > 1000 AND current_setting('hnsw.iterative_scan', true) IS NULL;
    former jsonb;
    incomplete integer[];
    numbers integer[];
    prepared record;
    hit record;
BEGIN
    layout.source := qvec._held(layout.relation);
    SELECT array_agg(n ORDER BY n) AS n, array_agg(p.bits ORDER BY n) AS bits, array_agg(p.floats ORDER BY n) AS floats,
           array_agg(p.base ORDER BY n) AS base, array_agg(p.scale ORDER BY n) AS scale,
           array_agg(p.digits ORDER BY n) AS digits
    INTO prepared
    FROM unnest(queries) WITH ORDINALITY AS q (v, n),
        LATERAL qvec._query(q.v, layout.calibration, layout.prefilter, layout.planes) AS p;
    incomplete := prepared.n;
    IF NOT everything THEN
        former := qvec._set_scan(qvec._scan_settings(wanted));
        FOR hit IN EXECUTE qvec._search_sql(layout, k, wanted, filter)
            USING prepared.bits, prepared.floats, prepared.base, prepared.scale, prepared.digits
        LOOP
            IF hit.found >= wanted THEN
                query := hit.query; id := hit.id; score := hit.score; document := hit.document; metadata := hit.metadata;
                RETURN NEXT;
                IF incomplete[hit.query] IS NOT NULL THEN
                    incomplete[hit.query] := NULL;
                END IF;
            END IF;
        END LOOP;
        PERFORM qvec._set_scan(former);
    END IF;
    -- The index gave fewer rows than were wanted: a small collection, or a filter or policy that few rows pass. All that
    -- there are, then.
    numbers := array_remove(incomplete, NULL);
    IF cardinality(numbers) > 0 THEN
        FOR hit IN EXECUTE qvec._search_sql(layout, k, NULL, filter)
            USING ARRAY(SELECT prepared.bits[n] FROM unnest(numbers) AS n),
                  ARRAY(SELECT prepared.floats[n] FROM unnest(numbers) AS n),
                  ARRAY(SELECT prepared.base[n] FROM unnest(numbers) AS n),
                  ARRAY(SELECT prepared.scale[n] FROM unnest(numbers) AS n),
                  ARRAY(SELECT prepared.digits[n] FROM unnest(numbers) AS n)
        LOOP
            query := numbers[hit.query]; id := hit.id; score := hit.score; document := hit.document; metadata := hit.metadata;
            RETURN NEXT;
        END LOOP;
    END IF;
END $$;
COMMENT ON FUNCTION qvec._run_search(text, vector[], integer, float8, jsonb, integer, boolean) IS 'The hits of each query, in no order';

CREATE OR REPLACE FUNCTION qvec.search(
    collection text, query vector, k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL, exact boolean DEFAULT false)
    RETURNS TABLE (id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY SELECT hit.id, hit.score, hit.document, hit.metadata
        FROM qvec._run_search(collection, ARRAY[query], k, oversampling, filter, candidates, exact) AS hit
        ORDER BY hit.score DESC;
END $$;
COMMENT ON FUNCTION qvec.search(text, vector, integer, float8, jsonb, integer, boolean) IS 'The k rows nearest to a query, best first: k * oversampling candidates (or as many as are named) by the prefilter, then scored';

CREATE OR REPLACE FUNCTION qvec.search(
    collection text, query halfvec, k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL, exact boolean DEFAULT false)
    RETURNS TABLE (id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY SELECT * FROM qvec.search(collection, query::vector, k, oversampling, filter, candidates, exact);
END $$;
COMMENT ON FUNCTION qvec.search(text, halfvec, integer, float8, jsonb, integer, boolean) IS 'The k rows nearest to a query, best first';

CREATE OR REPLACE FUNCTION qvec.search(
    collection text, queries vector[], k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL, exact boolean DEFAULT false)
    RETURNS TABLE (query integer, id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY SELECT * FROM qvec._run_search(collection, queries, k, oversampling, filter, candidates, exact) AS hit
        ORDER BY hit.query, hit.score DESC;
END $$;
COMMENT ON FUNCTION qvec.search(text, vector[], integer, float8, jsonb, integer, boolean) IS 'The k rows nearest to each of some queries (numbered from 1), best first, in one statement';

CREATE OR REPLACE FUNCTION qvec.explain(
    collection text, query vector, k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL) RETURNS SETOF text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    wanted integer := qvec._candidates(layout, k, oversampling, candidates);
    prepared record := qvec._query(query, layout.calibration, layout.prefilter, layout.planes);
    former jsonb := qvec._set_scan(qvec._scan_settings(wanted));
BEGIN
    layout.source := qvec._held(layout.relation);
    RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF) ' || qvec._search_sql(layout, k, wanted, filter)
        USING ARRAY[prepared.bits], ARRAY[prepared.floats], ARRAY[prepared.base], ARRAY[prepared.scale], ARRAY[prepared.digits];
    PERFORM qvec._set_scan(former);
END $$;
COMMENT ON FUNCTION qvec.explain(text, vector, integer, float8, jsonb, integer) IS 'How Postgres runs a search: its plan, with times';

-- An application's own table as a collection

CREATE OR REPLACE FUNCTION qvec._trigger_name(relation regclass) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT left(relname, 40) || '_qvec_' || left(encode(sha256(convert_to(relname, 'UTF8')), 'hex'), 8)
            FROM pg_class WHERE oid = relation);
COMMENT ON FUNCTION qvec._trigger_name(regclass) IS 'Name of an attached table''s trigger function';

CREATE OR REPLACE FUNCTION qvec._only_key(relation regclass) RETURNS name
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    key record;
BEGIN
    SELECT attname, cardinality(indkey::smallint[]) AS columns INTO key
        FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = relation AND indisprimary;
    IF key.columns IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'table % has no primary key of one column; name a unique one: id_column', relation
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN key.attname;
END $$;
COMMENT ON FUNCTION qvec._only_key(regclass) IS 'The column that is a table''s primary key';

CREATE OR REPLACE FUNCTION qvec._check_column(relation regclass, column_name name, types text[]) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    type text := (SELECT atttypid::regtype::text FROM pg_attribute
                   WHERE attrelid = relation AND attname = column_name AND attnum > 0 AND NOT attisdropped);
BEGIN
    IF type IS NULL THEN
        RAISE EXCEPTION 'table % has no column %', relation, quote_nullable(column_name) USING ERRCODE = 'undefined_column';
    ELSIF type <> ALL (types) THEN
        RAISE EXCEPTION 'column % of table % is %, expected %', column_name, relation, type, array_to_string(types, ' or ')
            USING ERRCODE = 'datatype_mismatch';
    END IF;
END $$;
COMMENT ON FUNCTION qvec._check_column(regclass, name, text[]) IS 'Refuses a column that is missing or of another type';

CREATE OR REPLACE FUNCTION qvec.attach(
    relation regclass, vector_column name, calibration text, collection text DEFAULT NULL, rescore text DEFAULT 'int8',
    prefilter text DEFAULT NULL, oversampling float8 DEFAULT 4, id_column name DEFAULT NULL,
    codes_column name DEFAULT 'codes', document_column name DEFAULT NULL, metadata_column name DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    name text := coalesce(collection, (SELECT relname FROM pg_class WHERE oid = relation));
    chosen text;
    key name;
    layout record;
    trigger_function text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'the table is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    chosen := qvec._check_collection(
        name, calibration, rescore, coalesce(prefilter, CASE WHEN rescore <> 'binary' THEN 'ternary' END), oversampling);
    IF chosen = 'learned' THEN
        RAISE EXCEPTION 'prefilter is ''learned'', which an attached table has no column for: expected ternary or binary'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    key := coalesce(id_column, qvec._only_key(relation));
    IF EXISTS (SELECT FROM qvec.collection AS c WHERE c.relation = attach.relation) THEN
        RAISE EXCEPTION 'table % is a collection already', relation USING ERRCODE = 'duplicate_object';
    END IF;
    PERFORM qvec._check_column(relation, vector_column, '{vector,halfvec}'),
            qvec._check_column(relation, key, '{smallint,integer,bigint,text,"character varying",uuid}');
    IF document_column IS NOT NULL THEN
        PERFORM qvec._check_column(relation, document_column, '{text,"character varying"}');
    END IF;
    IF metadata_column IS NOT NULL THEN
        PERFORM qvec._check_column(relation, metadata_column, '{jsonb}');
    END IF;
    INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling)
        VALUES (name, relation, calibration,
                CASE WHEN (SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = relation AND attname = key)
                          IN ('smallint', 'integer', 'bigint') THEN 'bigint' ELSE 'text' END,
                rescore, chosen, oversampling);
    INSERT INTO qvec.attachment (collection, id_column, vector_column, codes_column, document_column, metadata_column)
        VALUES (name, key, vector_column, codes_column, document_column, metadata_column);
    layout := qvec._layout(name);
    EXECUTE format('ALTER TABLE %s ADD COLUMN %I bit(%s)', layout.source, codes_column,
                   CASE WHEN layout.planes IS NOT NULL THEN layout.width * layout.planes
                        WHEN chosen = 'ternary' THEN 2 * layout.width ELSE layout.width END);
    trigger_function := (
        SELECT format('%I.%I', nspname, qvec._trigger_name(relation))
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = relation);
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql SET search_path = %5$s AS $body$
        BEGIN
            NEW.%2$I := qvec._codes(NEW.%3$I::vector, %4$s);
            RETURN NEW;
        END $body$ $sql$,
        trigger_function, codes_column, vector_column,
        format('%L, %L, %L', calibration, rescore, chosen), current_setting('search_path'));
    EXECUTE format('CREATE TRIGGER qvec_codes_insert BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                   layout.source, trigger_function);
    EXECUTE format('CREATE TRIGGER qvec_codes_update BEFORE UPDATE OF %I, %I ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                   vector_column, codes_column, layout.source, trigger_function);
    RETURN name;
END $$;
COMMENT ON FUNCTION qvec.attach(regclass, name, text, text, text, text, float8, name, name, name, name) IS 'Makes an application''s table a collection: adds codes and the triggers that keep them; then CALL qvec.backfill, and run qvec.index_statement';

CREATE OR REPLACE FUNCTION qvec.detach(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    own record;
BEGIN
    IF NOT layout.attached THEN
        RAISE EXCEPTION 'collection % is no attached table; drop it with qvec.drop_collection', quote_literal(collection)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT format('%I.%I', nspname, qvec._index_name(relname)) AS index,
           format('%I.%I', nspname, qvec._trigger_name(layout.relation)) AS trigger_function INTO own
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = layout.relation;
    EXECUTE format('DROP INDEX IF EXISTS %s', own.index);
    EXECUTE format('DROP TRIGGER IF EXISTS qvec_codes_insert ON %s', layout.source);
    EXECUTE format('DROP TRIGGER IF EXISTS qvec_codes_update ON %s', layout.source);
    EXECUTE format('DROP FUNCTION IF EXISTS %s()', own.trigger_function);
    EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS %s', layout.source, layout.codes);
    DELETE FROM qvec.attachment AS a WHERE a.collection = detach.collection;
    DELETE FROM qvec.collection AS c WHERE c.name = detach.collection;
END $$;
COMMENT ON FUNCTION qvec.detach(text) IS 'Takes codes, triggers and index away from an attached table; the table stays';

-- The next blocks of a table: returns whether there is more to do. Rows written meanwhile have their codes from the
-- trigger, which also quantizes here. Rows that were moved behind the last block are found by a look at the whole.
CREATE OR REPLACE FUNCTION qvec._backfill_step(collection text, blocks integer) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    place record;
    part text := 'true';
    missing text;
    usable text;
    updated bigint;
    skipped bigint;
BEGIN
    SELECT * INTO place FROM qvec.attachment AS a WHERE a.collection = _backfill_step.collection FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'collection % is no attached table', quote_literal(collection)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF blocks IS NULL OR blocks < 1 THEN
        RAISE EXCEPTION 'blocks_at_once is %, expected at least 1', blocks USING ERRCODE = 'invalid_parameter_value';
    ELSIF place.finished THEN
        RETURN false;
    END IF;
    place.blocks_total := coalesce(
        place.blocks_total, pg_relation_size(layout.relation) / current_setting('block_size')::int);
    place.finished := place.blocks_done >= place.blocks_total;
    IF NOT place.finished THEN
        part := format('ctid >= ''(%s,0)'' AND ctid < ''(%s,0)''',
                       place.blocks_done, least(place.blocks_done + blocks, place.blocks_total));
    END IF;
    missing := format('%s AND %s IS NULL AND %I IS NOT NULL', part, layout.codes, place.vector_column);
    usable := format(
        'vector_dims(%1$I) IN (SELECT dimensions FROM qvec.calibration WHERE id = %2$L UNION ALL'
        ' SELECT (metadata ->> ''cut_from'')::int FROM qvec.calibration WHERE id = %2$L) AND %3$s',
        place.vector_column, layout.calibration,
        CASE WHEN layout.metric = 'cosine' THEN format('vector_norm(%s::vector) > 0', layout.embedding) ELSE 'true' END);
    EXECUTE format('UPDATE %1$s SET %2$s = %2$s WHERE %3$s AND %4$s', layout.source, layout.codes, missing, usable);
    GET DIAGNOSTICS updated = ROW_COUNT;
    EXECUTE format('SELECT count(*) FROM %s WHERE %s', layout.source, missing) INTO skipped;
    UPDATE qvec.attachment AS a SET
        blocks_done = least(place.blocks_done + blocks, place.blocks_total), blocks_total = place.blocks_total,
        rows_done = place.rows_done + updated, finished = place.finished, updated_at = clock_timestamp(),
        rows_skipped = CASE WHEN place.finished THEN skipped ELSE place.rows_skipped + skipped END
        WHERE a.collection = _backfill_step.collection;
    RETURN NOT place.finished;
END $$;
COMMENT ON FUNCTION qvec._backfill_step(text, integer) IS 'Quantizes the rows of the next blocks of an attached table';

CREATE OR REPLACE PROCEDURE qvec.backfill(collection text, blocks_at_once integer DEFAULT 200)
    LANGUAGE plpgsql AS $$
BEGIN
    WHILE qvec._backfill_step(collection, blocks_at_once) LOOP
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE qvec.backfill(text, integer) IS 'Quantizes the rows that an attached table had already, in batches that are committed: call it again after an interruption, and it goes on';

CREATE OR REPLACE VIEW qvec.backfills AS
    SELECT a.collection, c.relation, a.blocks_done, a.blocks_total,
           round(100.0 * a.blocks_done / nullif(a.blocks_total, 0), 1) AS percent,
           a.rows_done, a.rows_skipped, a.finished, a.updated_at
    FROM qvec.attachment AS a JOIN qvec.collection AS c ON c.name = a.collection;
COMMENT ON VIEW qvec.backfills IS 'How far qvec.backfill has come on each attached table';

-- Calibrating

-- A number as Python writes it in JSON.
CREATE OR REPLACE FUNCTION qvec._json_float(x float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT SET extra_float_digits = 1 AS $$
        SELECT CASE WHEN x::text ~ '[.e]' THEN x::text ELSE x::text || '.0' END
    $$;
COMMENT ON FUNCTION qvec._json_float(float8) IS 'A number as canonical JSON writes it';

-- All but printable ASCII is escaped, in UTF-16, as JSON does.
CREATE OR REPLACE FUNCTION qvec._json_text(value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value IS NULL THEN 'null' ELSE '"' || (
        SELECT coalesce(string_agg(
            CASE
                WHEN c = '"' THEN '\"'
                WHEN c = '\' OR ascii(c) < 32 THEN btrim(to_json(c)::text, '"')
                WHEN ascii(c) < 127 THEN c
                WHEN ascii(c) < 65536 THEN '\u' || lpad(to_hex(ascii(c)), 4, '0')
                ELSE '\u' || to_hex(55296 + ((ascii(c) - 65536) >> 10)) || '\u' || to_hex(56320 + ((ascii(c) - 65536) & 1023))
            END, '' ORDER BY i), '')
        FROM regexp_split_to_table(value, '') WITH ORDINALITY AS u (c, i)) || '"' END;
COMMENT ON FUNCTION qvec._json_text(text) IS 'A string as canonical JSON writes it';

-- numpy's quantile of sorted numbers: between two of them from the nearer one, in float64, rounded to float32.
CREATE OR REPLACE FUNCTION qvec._quantile(sorted real[], quantile float8) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    place float8 := (cardinality(sorted) - 1) * quantile;
    below integer := floor(place);
    lower float8 := sorted[below + 1];
    upper float8 := sorted[least(below + 2, cardinality(sorted))];
    share float8 := place - below;
BEGIN
    RETURN qvec._float32(CASE WHEN share >= 0.5 THEN upper - (upper - lower) * (1 - share)
                              ELSE lower + (upper - lower) * share END);
END $$;
COMMENT ON FUNCTION qvec._quantile(real[], float8) IS 'A quantile of sorted numbers';

-- The safetensors file of a calibration, and its id, as Python writes them: in the file the id stands among the keys, in
-- their order; it hashes the metadata without it.
CREATE OR REPLACE FUNCTION qvec._safetensors(
    metadata text, arrays bytea[], dimensions integer, OUT id text, OUT content bytea)
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    names text[] := '{deviation,mean,radius,std,threshold}';
    hashed bytea := convert_to(metadata, 'UTF8');
    header text;
BEGIN
    FOR i IN 1..5 LOOP
        hashed := hashed || convert_to(E'\n' || names[i] || E'\n', 'UTF8') || arrays[i];
    END LOOP;
    id := left(encode(sha256(hashed), 'hex'), 16);
    header := regexp_replace(metadata, ',"method":', ',"id":"' || id || '","method":');
    header := '{"__metadata__":{"qvec":' || to_json(header)::text || '}' || (
        SELECT string_agg(format(',"%s":{"dtype":"F32","shape":[%s],"data_offsets":[%s,%s]}', name, dimensions,
                                 (i - 1) * 4 * dimensions, i * 4 * dimensions), '' ORDER BY i)
        FROM unnest(names) WITH ORDINALITY AS u (name, i)) || '}';
    header := header || repeat(' ', (8 - length(header) % 8) % 8);
    content := (SELECT string_agg(set_byte('\x00'::bytea, 0, (length(header) >> 8 * place) & 255), ''::bytea ORDER BY place)
                FROM generate_series(0, 3) AS place)
        || '\x00000000'::bytea || convert_to(header, 'UTF8')
        || arrays[1] || arrays[2] || arrays[3] || arrays[4] || arrays[5];
END $$;
COMMENT ON FUNCTION qvec._safetensors(text, bytea[], integer) IS 'The file and the id of a calibration from its canonical metadata and its arrays in order of name';

CREATE OR REPLACE FUNCTION qvec._fitted(x vector, dimensions integer, metric text) RETURNS vector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    IF dimensions < vector_dims(x) THEN
        x := subvector(x, 1, dimensions);
    END IF;
    RETURN CASE metric WHEN 'cosine' THEN qvec._unit(x) ELSE x END;
END $$;
COMMENT ON FUNCTION qvec._fitted(vector, integer, text) IS 'A vector as a calibration that is still to be made will prepare it';

CREATE OR REPLACE FUNCTION qvec._mean_distance(sample vector[], center real[]) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
        SELECT array_agg(qvec._float32(distance)::real ORDER BY i)
        FROM (SELECT i, avg(abs(e::float8 - c)) AS distance
              FROM unnest(sample) AS v, unnest(v::real[], center) WITH ORDINALITY AS u (e, c, i) GROUP BY i) AS x
    $$;
COMMENT ON FUNCTION qvec._mean_distance(vector[], real[]) IS 'The mean distance from the threshold, in each dimension';

CREATE OR REPLACE FUNCTION qvec._quantile_distance(sample vector[], center real[], quantile float8) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
        SELECT array_agg(qvec._quantile(distances, quantile)::real ORDER BY i)
        FROM (SELECT i, array_agg(abs(e - c) ORDER BY abs(e - c)) AS distances
              FROM unnest(sample) AS v, unnest(v::real[], center) WITH ORDINALITY AS u (e, c, i) GROUP BY i) AS x
    $$;
COMMENT ON FUNCTION qvec._quantile_distance(vector[], real[], float8) IS 'A quantile of the distance from the threshold, in each dimension';

CREATE OR REPLACE FUNCTION qvec._check_calibrate(
    method text, metric text, threshold float8, quantile float8, radius float8, sample_size integer) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF method IS NULL OR method NOT IN ('quantile', 'minmax', 'fixed') THEN
        RAISE EXCEPTION 'method is %, expected quantile, minmax or fixed', quote_nullable(method)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF metric IS NULL OR metric NOT IN ('cosine', 'ip') THEN
        RAISE EXCEPTION 'metric is %, expected cosine or ip', quote_nullable(metric)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF threshold IS NULL OR NOT threshold BETWEEN 0 AND 1 THEN
        RAISE EXCEPTION 'threshold is %, expected a share of the mean from 0 to 1', threshold
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF quantile IS NULL OR NOT (quantile > 0 AND quantile <= 1) THEN
        RAISE EXCEPTION 'quantile is %, expected a number above 0 and at most 1', quantile
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF (method = 'fixed') <> (radius IS NOT NULL) OR NOT (radius > 0 AND radius < 'Infinity') THEN
        RAISE EXCEPTION 'radius is %: method fixed needs one, positive and finite, and no other takes one', radius
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF sample_size IS NULL OR sample_size < 1 THEN
        RAISE EXCEPTION 'sample_size is %, expected at least 1', sample_size USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION qvec._check_calibrate(text, text, float8, float8, float8, integer) IS 'Refuses settings that no calibration can have';

-- The rows of a hash's least values are a uniform sample, and the same one for the same seed.
CREATE OR REPLACE FUNCTION qvec.calibrate(
    relation regclass, vector_column name, method text DEFAULT 'quantile', metric text DEFAULT 'cosine',
    threshold float8 DEFAULT 0.5, quantile float8 DEFAULT 0.9999, radius float8 DEFAULT NULL,
    dimensions integer DEFAULT NULL, model text DEFAULT NULL, sample_size integer DEFAULT 20000,
    seed integer DEFAULT 0) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    source text := (SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                    WHERE pg_class.oid = relation);
    drawn record;
    sample vector[];
    s record;
    center real[];
    made record;
BEGIN
    PERFORM qvec._check_calibrate(method, metric, threshold, quantile, radius, sample_size),
            qvec._check_column(relation, vector_column, '{vector,halfvec}');
    EXECUTE format(
        'SELECT array_agg(v) AS sample, max(total) AS total, max(vector_dims(v)) AS dimensions,'
        ' min(vector_dims(v)) AS least, bool_and(abs(vector_norm(v) ^ 2 - 1) <= 2e-4) AS unit'
        ' FROM (SELECT %1$I::vector AS v, count(*) OVER () AS total FROM %2$s WHERE %1$I IS NOT NULL'
        ' ORDER BY hashtextextended(ctid::text, %3$s) LIMIT %4$s) AS sample', vector_column, source, seed, sample_size)
        INTO drawn;
    IF drawn.sample IS NULL THEN
        RAISE EXCEPTION 'no vectors to calibrate on in column % of %', vector_column, relation USING ERRCODE = 'no_data_found';
    ELSIF drawn.least < drawn.dimensions THEN
        RAISE EXCEPTION 'vectors have % and % dimensions, expected one number', drawn.least, drawn.dimensions
            USING ERRCODE = 'data_exception';
    END IF;
    dimensions := coalesce(dimensions, drawn.dimensions);
    IF dimensions NOT BETWEEN 1 AND drawn.dimensions THEN
        RAISE EXCEPTION 'dimensions is %, but the vectors have %', dimensions, drawn.dimensions
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    sample := ARRAY(SELECT qvec._fitted(v, dimensions, metric) FROM unnest(drawn.sample) AS v);
    SELECT array_agg(qvec._float32(x.mean)::real ORDER BY i) AS mean, array_agg(qvec._float32(x.std)::real ORDER BY i) AS std,
           array_agg(x.least ORDER BY i) AS least, array_agg(x.greatest ORDER BY i) AS greatest
    INTO s
    FROM (SELECT i, avg(e::float8) AS mean, stddev_pop(e::float8) AS std, min(e) AS least, max(e) AS greatest
          FROM unnest(sample) AS v, unnest(v::real[]) WITH ORDINALITY AS u (e, i) GROUP BY i) AS x;
    center := ARRAY(SELECT qvec._float32(threshold::real::float8 * m)::real FROM unnest(s.mean) AS m);
    made := qvec._safetensors(
        concat('{', CASE WHEN drawn.dimensions > dimensions THEN format('"cut_from":%s,', drawn.dimensions) END,
               format('"dimensions":%s,"format":1,"method":{"name":"%s","per_dimension":true,', dimensions, method),
               CASE WHEN method = 'quantile' THEN format('"quantile":%s,', qvec._json_float(quantile)) END,
               format('"threshold":%s},"metric":"%s","model":%s,"normalized":%s,"qvec":"%s",',
                      qvec._json_float(threshold), metric, qvec._json_text(model),
                      CASE WHEN drawn.unit THEN 'true' ELSE 'false' END, qvec.version()),
               format('"sample":{"drawn":"%s","seed":%s,"size":%s}}',
                      CASE WHEN drawn.total > sample_size THEN 'uniform' ELSE 'all' END, seed, cardinality(sample))),
        ARRAY[qvec._bytes(qvec._mean_distance(sample, center)), qvec._bytes(s.mean),
              qvec._bytes(CASE method
                  WHEN 'quantile' THEN qvec._quantile_distance(sample, center, quantile)
                  WHEN 'minmax' THEN ARRAY(SELECT greatest(g - c, c - l) FROM unnest(s.greatest, s.least, center) AS u (g, l, c))
                  ELSE array_fill(radius::real, ARRAY[dimensions]) END),
              qvec._bytes(s.std), qvec._bytes(center)],
        dimensions);
    INSERT INTO qvec.calibration (id, content) VALUES (made.id, made.content) ON CONFLICT ON CONSTRAINT calibration_pkey DO NOTHING;
    RETURN made.id;
END $$;
COMMENT ON FUNCTION qvec.calibrate(regclass, name, text, text, float8, float8, float8, integer, text, integer, integer) IS 'Fits a calibration to a random sample of a table''s vectors, stores it and returns its id. The ranges serve int8 unless told; a quantile of 0.99 serves int4 better';

-- Drift

CREATE OR REPLACE FUNCTION qvec._drift_of_floats(
    layout record, sample_size integer, OUT rows bigint, OUT mean_shift float8, OUT spread_ratio float8,
    OUT bit_balance float8, OUT clip_rate float8, OUT largest_clip_rate float8)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    sample vector[];
    k record;
BEGIN
    EXECUTE format('SELECT array_agg(qvec._prepared(v, %L)) FROM (SELECT %s::vector AS v FROM %s WHERE %s IS NOT NULL'
                   ' ORDER BY ctid DESC LIMIT %s) AS recent',
                   layout.calibration, layout.embedding, layout.source, layout.codes, sample_size) INTO sample;
    SELECT threshold::real[], radius::real[], mean::real[], std::real[] INTO k
        FROM qvec.calibration AS stored WHERE stored.id = layout.calibration;
    rows := coalesce(cardinality(sample), 0);
    SELECT max(abs(CASE WHEN d.mean = m THEN 0 WHEN s = 0 THEN 'Infinity'::float8 ELSE (d.mean - m) / s END)),
           percentile_cont(0.5) WITHIN GROUP (
               ORDER BY CASE WHEN s > 0 THEN d.std / s WHEN d.std = 0 THEN 1 ELSE 'Infinity'::float8 END),
           avg(d.balance), avg(d.clipped), max(d.clipped)
    INTO mean_shift, spread_ratio, bit_balance, clip_rate, largest_clip_rate
    FROM (SELECT i, avg(e::float8) AS mean, stddev_pop(e::float8) AS std, avg((e > t)::int) AS balance,
                 avg((abs(e - t) > r)::int) AS clipped
          FROM unnest(sample) AS v, unnest(v::real[], k.threshold, k.radius) WITH ORDINALITY AS u (e, t, r, i)
          GROUP BY i) AS d
    JOIN unnest(k.mean, k.std) WITH ORDINALITY AS c (m, s, i) USING (i);
END $$;
COMMENT ON FUNCTION qvec._drift_of_floats(record, integer) IS 'Drift of the rows written last, from their floats';

-- A code is clipped where all its bits are equal: it is the first or the last there is. One plane cannot tell.
CREATE OR REPLACE FUNCTION qvec._drift_of_codes(
    layout record, sample_size integer, OUT rows bigint, OUT bit_balance float8, OUT clip_rate float8,
    OUT largest_clip_rate float8)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    sample bit varying[];
BEGIN
    EXECUTE format('SELECT array_agg(c) FROM (SELECT %1$s::bit varying AS c FROM %2$s ORDER BY ctid DESC LIMIT %3$s) AS recent',
                   layout.codes, layout.source, sample_size) INTO sample;
    rows := coalesce(cardinality(sample), 0);
    SELECT avg(positive), CASE WHEN layout.planes > 1 THEN avg(clipped) END, CASE WHEN layout.planes > 1 THEN max(clipped) END
    INTO bit_balance, clip_rate, largest_clip_rate
    FROM (SELECT i, avg(get_bit(c, i)) AS positive, avg(get_bit(ends, i)) AS clipped
          FROM unnest(sample) AS c,
              LATERAL (SELECT bit_and(plane) | ~bit_or(plane) AS ends
                       FROM generate_series(0, layout.planes - 1) AS p,
                           LATERAL (SELECT substring(c FROM p * layout.width + 1 FOR layout.width) AS plane) AS sliced) AS all_planes,
              generate_series(0, layout.dimensions - 1) AS i
          GROUP BY i) AS d;
END $$;
COMMENT ON FUNCTION qvec._drift_of_codes(record, integer) IS 'Drift of the rows written last, from their codes';

CREATE OR REPLACE FUNCTION qvec.drift(
    collection text, sample_size integer DEFAULT 1000, OUT rows bigint, OUT largest_mean_shift float8,
    OUT median_spread_ratio float8, OUT mean_bit_balance float8, OUT mean_clip_rate float8, OUT largest_clip_rate float8)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
BEGIN
    IF layout.planes IS NULL OR layout.attached THEN
        SELECT d.* INTO rows, largest_mean_shift, median_spread_ratio, mean_bit_balance, mean_clip_rate, largest_clip_rate
            FROM qvec._drift_of_floats(layout, sample_size) AS d;
    ELSE
        SELECT d.* INTO rows, mean_bit_balance, mean_clip_rate, largest_clip_rate
            FROM qvec._drift_of_codes(layout, sample_size) AS d;
    END IF;
END $$;
COMMENT ON FUNCTION qvec.drift(text, integer) IS 'How far the rows written last have moved from those the calibration was fitted on: means and spread where floats are kept, bits alone where only codes are';

-- Packaged as an extension, the rows are the user's: pg_dump has to take them along.
BEGIN
    PERFORM pg_extension_config_dump('qvec.calibration', '');
    PERFORM pg_extension_config_dump('qvec.collection', '');
    PERFORM pg_extension_config_dump('qvec.ingest', '');
    PERFORM pg_extension_config_dump('qvec.attachment', '');
    PERFORM pg_extension_config_dump('qvec.version', '');
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- no extension
END;

PERFORM set_config('client_min_messages', caller_messages, true);
PERFORM set_config('search_path', caller_path, true);
END $install$;
