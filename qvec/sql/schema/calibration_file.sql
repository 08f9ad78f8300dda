-- The safetensors file of a calibration: read, verified and written.

-- Returns the metadata as the file holds it (canonical JSON, with the id), the entries of the arrays, and the byte
-- where the arrays start, counted from 0.
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
EXCEPTION
    WHEN data_exception OR array_subscript_error OR character_not_in_repertoire OR invalid_text_representation THEN
        metadata := NULL;
END $$;
COMMENT ON FUNCTION qvec._header(bytea)
    IS 'Header of a safetensors file written by qvec; metadata is NULL for any other bytes';

-- Exact, also for subnormal numbers and the sign of zero.
CREATE OR REPLACE FUNCTION qvec._float32_from_bits(bits bigint) RETURNS real
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN bits >> 23 & 255 = 255 THEN 'NaN'::real
        WHEN bits >> 23 & 255 = 0 THEN (bits & 8388607) * power(2::float8, -149)
        ELSE (8388608 + (bits & 8388607)) * power(2::float8, ((bits >> 23 & 255) - 150)::float8)
    END::real * CASE WHEN bits >> 31 = 1 THEN -1::real ELSE 1::real END;
COMMENT ON FUNCTION qvec._float32_from_bits(bigint) IS 'A float32 from its bits; NaN if it is not finite';

CREATE OR REPLACE FUNCTION qvec._read_float32s(content bytea) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT qvec._float32_from_bits(get_byte(content, i) + (get_byte(content, i + 1) << 8)
                                       + (get_byte(content, i + 2) << 16) + (get_byte(content, i + 3)::bigint << 24))
        FROM generate_series(0, length(content) - 4, 4) AS i ORDER BY i);
COMMENT ON FUNCTION qvec._read_float32s(bytea) IS 'float32 numbers from little-endian bytes';

CREATE OR REPLACE FUNCTION qvec._read_int32s(content bytea) RETURNS integer[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT get_byte(content, i) + (get_byte(content, i + 1) << 8) + (get_byte(content, i + 2) << 16)
               + (get_byte(content, i + 3) << 24)
        FROM generate_series(0, length(content) - 4, 4) AS i ORDER BY i);
COMMENT ON FUNCTION qvec._read_int32s(bytea) IS 'int32 numbers from little-endian bytes';

CREATE OR REPLACE FUNCTION qvec._write_float32s(floats real[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT string_agg(substring(b FROM 4) || substring(b FROM 3 FOR 1) || substring(b FROM 2 FOR 1)
                          || substring(b FOR 1), ''::bytea ORDER BY i)
        FROM unnest(floats) WITH ORDINALITY AS u (x, i), LATERAL (SELECT float4send(x) AS b OFFSET 0) AS sent);
COMMENT ON FUNCTION qvec._write_float32s(real[]) IS 'float32 numbers as little-endian bytes';

CREATE OR REPLACE FUNCTION qvec._array_bytes(arrays json, content bytea, start integer, name text) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN substring(content FROM start + 1 + (arrays #>> ARRAY[name, 'data_offsets', '0'])::int
                     FOR (arrays #>> ARRAY[name, 'data_offsets', '1'])::int
                         - (arrays #>> ARRAY[name, 'data_offsets', '0'])::int);
COMMENT ON FUNCTION qvec._array_bytes(json, bytea, integer, text) IS 'Bytes of an array of a safetensors file, by name';

CREATE OR REPLACE FUNCTION qvec._float32_array(arrays json, content bytea, start integer, name text) RETURNS real[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN qvec._read_float32s(qvec._array_bytes(arrays, content, start, name));
COMMENT ON FUNCTION qvec._float32_array(json, bytea, integer, text) IS 'A float32 array of a safetensors file, by name';

CREATE OR REPLACE FUNCTION qvec._read_projection(content bytea, dimensions integer) RETURNS vector[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(
        SELECT (SELECT array_agg((get_byte(weights, i) # 128) - 128 ORDER BY i)
                FROM generate_series(0, dimensions - 1) AS i)::vector
        FROM generate_series(0, length(content) / dimensions - 1) AS j,
            LATERAL (SELECT substring(content FROM j * dimensions + 1 FOR dimensions) AS weights OFFSET 0) AS line
        ORDER BY j);
COMMENT ON FUNCTION qvec._read_projection(bytea, integer) IS 'Rows of an int8 matrix, as vectors';

CREATE OR REPLACE FUNCTION qvec._hashed_arrays(arrays json, content bytea, start integer) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT string_agg(convert_to(E'\n' || name || E'\n', 'UTF8')
                          || qvec._array_bytes(arrays, content, start, name), ''::bytea ORDER BY i)
        FROM unnest('{bias,deviation,mean,projection,radius,std,threshold}'::text[]) WITH ORDINALITY AS u (name, i)
        WHERE arrays -> name IS NOT NULL);
COMMENT ON FUNCTION qvec._hashed_arrays(json, bytea, integer)
    IS 'Bytes of the arrays that the id of a calibration hashes: each array after its name, ordered by name';

-- The hash covers the metadata without its id. The text of the id may occur more than once in the metadata, so each
-- occurrence is tried.
CREATE OR REPLACE FUNCTION qvec._id_matches(id text, metadata text, arrays bytea) RETURNS boolean
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
COMMENT ON FUNCTION qvec._id_matches(text, text, bytea)
    IS 'Whether an id is the hash of the metadata, which holds the id, and the arrays';

CREATE OR REPLACE FUNCTION qvec._json_float(x float8) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT SET extra_float_digits = 1 AS $$
        SELECT CASE WHEN x::text ~ '[.e]' THEN x::text ELSE x::text || '.0' END
    $$;
COMMENT ON FUNCTION qvec._json_float(float8) IS 'A number in canonical JSON, as Python writes it';

-- Characters other than printable ASCII are escaped as UTF-16.
CREATE OR REPLACE FUNCTION qvec._json_text(value text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN value IS NULL THEN 'null' ELSE '"' || (
        SELECT coalesce(string_agg(
            CASE
                WHEN c = '"' THEN '\"'
                WHEN c = '\' OR ascii(c) < 32 THEN btrim(to_json(c)::text, '"')
                WHEN ascii(c) < 127 THEN c
                WHEN ascii(c) < 65536 THEN '\u' || lpad(to_hex(ascii(c)), 4, '0')
                ELSE '\u' || to_hex(55296 + ((ascii(c) - 65536) >> 10))
                    || '\u' || to_hex(56320 + ((ascii(c) - 65536) & 1023))
            END, '' ORDER BY i), '')
        FROM regexp_split_to_table(value, '') WITH ORDINALITY AS u (c, i)) || '"' END;
COMMENT ON FUNCTION qvec._json_text(text) IS 'A string in canonical JSON, as Python writes it';

-- Equals the file and id that Python writes. The id hashes the metadata without the id; in the file, the id is one of
-- the sorted keys of the metadata.
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
    content := (
        SELECT string_agg(set_byte('\x00'::bytea, 0, (length(header) >> 8 * place) & 255), ''::bytea ORDER BY place)
        FROM generate_series(0, 3) AS place)
        || '\x00000000'::bytea || convert_to(header, 'UTF8')
        || arrays[1] || arrays[2] || arrays[3] || arrays[4] || arrays[5];
END $$;
COMMENT ON FUNCTION qvec._safetensors(text, bytea[], integer)
    IS 'File and id of a calibration, from its canonical metadata and its arrays ordered by name';
