-- Codes of vectors: bit planes, and the binary, ternary and learned bits that are read from them. They equal those of
-- the numpy specification in the tests, bit for bit.

-- Steps n are multiples of 1, or of 1/4 for codes of 10 bits: a fraction keeps the arithmetic of 8 bits. The functions
-- take the numbers that differ from CASE, because qvec._fill is fast with constants only.

-- Uses only vector operations of pgvector, which are fast. With z = n less half a step the top bit is [z > 0]. The
-- remainder of z by 256, from -128 to 128, is negative where the next bit is set, after z was doubled.
CREATE OR REPLACE FUNCTION qvec._planes_of_steps(n vector, bits integer) RETURNS bit varying[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    round256 vector := qvec._fill(3221225472, vector_dims(n)); -- 1.5 * 2^31: its last bit is 256
    z vector := n - CASE bits WHEN 8 THEN qvec._fill(0.5, vector_dims(n)) ELSE qvec._fill(0.125, vector_dims(n)) END;
    plane bit varying[] := ARRAY[binary_quantize(z)];
BEGIN
    FOR i IN 2..bits LOOP
        z := z + z;
        z := z - ((z + round256) - round256);
        plane[i] := ~binary_quantize(z);
    END LOOP;
    RETURN plane;
END $$;
COMMENT ON FUNCTION qvec._planes_of_steps(vector, integer)
    IS 'The planes of codes of 8 bits, 127 + n, for integers n from -127 to 128, or of 10 bits, 511 + 4 * n, for '
       'multiples n of 1/4 from -127.75 to 128';

CREATE OR REPLACE FUNCTION qvec._code_bits(planes integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN planes <= 8 THEN 8 ELSE 10 END;
COMMENT ON FUNCTION qvec._code_bits(integer)
    IS 'Bits of the codes whose top planes are taken: 8, or 10 for more than 8 planes';

CREATE OR REPLACE FUNCTION qvec._join_planes(plane bit varying[], planes integer) RETURNS bit varying
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
COMMENT ON FUNCTION qvec._join_planes(bit varying[], integer)
    IS 'The top planes concatenated, each padded to whole bytes';

CREATE OR REPLACE FUNCTION qvec._exact_planes(x vector, threshold vector, scale vector, planes integer)
    RETURNS bit varying
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN qvec._join_planes(qvec._planes_of_steps(ARRAY(
        SELECT CASE
            WHEN step > 128 THEN 128
            WHEN difference > 0 THEN greatest(ceil(step * parts), 1) / parts
            ELSE ceil(greatest(step * parts, least)) / parts
        END
        FROM (SELECT 2 ^ (bits - 8) AS parts, 1 - 2 ^ (bits - 1) AS least
              FROM (SELECT qvec._code_bits(planes)::float8 AS bits) AS b OFFSET 0) AS c,
            unnest(x::real[], threshold::real[], scale::real[]) AS u (e, t, s),
            LATERAL (SELECT qvec._round_float32(e::float8 - t) AS difference OFFSET 0) AS d,
            LATERAL (SELECT qvec._round_float32(difference * s) AS step OFFSET 0) AS p)::vector,
        qvec._code_bits(planes)), planes);
COMMENT ON FUNCTION qvec._exact_planes(vector, vector, vector, integer)
    IS 'Codes of a prepared vector of any norm, computed number by number: slow';

-- About ten times as fast as _exact_planes. pgvector raises an error if an operation leaves the range of float32, so
-- the norm must not exceed safe_norm. With t = (x - threshold) * scale and n = t rounded to a step (by adding a number
-- whose last bit has the weight of a step), the code is that of n, plus 1 where t > n; the 1 is added plane by plane.
CREATE OR REPLACE FUNCTION qvec._fast_planes(x vector, threshold vector, scale vector, planes integer)
    RETURNS bit varying
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    bits integer := qvec._code_bits(planes);
    round1 vector := CASE bits
        WHEN 8 THEN qvec._fill(12582912, vector_dims(x)) -- 1.5 * 2^23
        ELSE qvec._fill(3145728, vector_dims(x)) END; -- 1.5 * 2^21
    most vector := CASE bits
        WHEN 8 THEN qvec._fill(127, vector_dims(x)) ELSE qvec._fill(127.75, vector_dims(x)) END;
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
        RETURN qvec._join_planes(ARRAY[binary_quantize(difference)::bit varying], 1);
    END IF;
    t := difference * scale;
    n := (t + round1) - round1;
    above := binary_quantize(t - most);
    within := binary_quantize(t + most);
    carry := binary_quantize(t - n);
    plane := qvec._planes_of_steps(n, bits);
    FOR i IN REVERSE bits..2 LOOP
        sum := plane[i] # carry;
        carry := plane[i] & carry;
        plane[i] := (sum | above) & within;
    END LOOP;
    plane[1] := binary_quantize(difference);
    RETURN qvec._join_planes(plane, planes);
END $$;
COMMENT ON FUNCTION qvec._fast_planes(vector, vector, vector, integer)
    IS 'Codes of a prepared vector whose norm is at most the safe_norm of the calibration';

CREATE OR REPLACE FUNCTION qvec.quantize(embedding vector, calibration text, planes integer DEFAULT 8) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    x vector := qvec._prepare(embedding, calibration);
    k record;
BEGIN
    IF planes NOT BETWEEN 1 AND 10 THEN
        RAISE EXCEPTION 'planes is %, expected 1 to 10', planes USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT threshold, scale, safe_norm INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF vector_norm(x) <= k.safe_norm THEN
        RETURN qvec._fast_planes(x, k.threshold, k.scale, planes);
    END IF;
    RETURN qvec._exact_planes(x, k.threshold, k.scale, planes);
END $$;
COMMENT ON FUNCTION qvec.quantize(vector, text, integer)
    IS 'The codes of a vector: its 1 (binary), 4 (int4), 8 (int8), 10 (int10) or other number of top planes, top plane '
       'first';

CREATE OR REPLACE FUNCTION qvec.quantize(embedding halfvec, calibration text, planes integer DEFAULT 8) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding::vector, calibration, planes);
COMMENT ON FUNCTION qvec.quantize(halfvec, text, integer)
    IS 'The codes of a vector: its 1 (binary), 4 (int4), 8 (int8), 10 (int10) or other number of top planes, top plane '
       'first';

CREATE OR REPLACE FUNCTION qvec.binary(embedding vector, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding, calibration, 1);
COMMENT ON FUNCTION qvec.binary(vector, text) IS 'The sign bits of a vector: [x > threshold] in each dimension';

CREATE OR REPLACE FUNCTION qvec.binary(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.quantize(embedding::vector, calibration, 1);
COMMENT ON FUNCTION qvec.binary(halfvec, text) IS 'The sign bits of a vector: [x > threshold] in each dimension';

-- Two planes of width bits, [code >= 144] and [code >= 112]: the level -1, 0 or 1 of each dimension in unary, from the
-- top four planes of its code. Postgres inlines the function into the index expression and into searches.
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
COMMENT ON FUNCTION qvec.ternary(bit, integer)
    IS 'The ternary code, 2 * width bits, of codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.ternary(embedding vector, calibration text) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    codes bit varying := qvec.quantize(embedding, calibration, 4);
BEGIN
    RETURN qvec.ternary(codes, length(codes) / 4);
END $$;
COMMENT ON FUNCTION qvec.ternary(vector, text)
    IS 'The ternary code of a vector: two bits for each dimension; their Hamming distance is the distance of the '
       'levels -1, 0, 1';

CREATE OR REPLACE FUNCTION qvec.ternary(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.ternary(embedding::vector, calibration);
COMMENT ON FUNCTION qvec.ternary(halfvec, text)
    IS 'The ternary code of a vector: two bits for each dimension; their Hamming distance is the distance of the '
       'levels -1, 0, 1';

-- One plane of width bits for each code that parts two levels, [code >= it]: the level of each dimension in unary, from
-- the top four planes of its code. Postgres inlines these functions into the index expression and into searches.
CREATE OR REPLACE FUNCTION qvec.levels4(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN @LEVELS4@;
COMMENT ON FUNCTION qvec.levels4(bit, integer)
    IS 'The 4 levels of codes in unary, 3 * width bits, of codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.levels5(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN @LEVELS5@;
COMMENT ON FUNCTION qvec.levels5(bit, integer)
    IS 'The 5 levels of codes in unary, 4 * width bits, of codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.levels6(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN @LEVELS6@;
COMMENT ON FUNCTION qvec.levels6(bit, integer)
    IS 'The 6 levels of codes in unary, 5 * width bits, of codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.levels8(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN @LEVELS8@;
COMMENT ON FUNCTION qvec.levels8(bit, integer)
    IS 'The 8 levels of codes in unary, 7 * width bits, of codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.levels(codes bit, width integer, count integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE count
        WHEN 2 THEN substring(codes from 1 for width)
        WHEN 3 THEN qvec.ternary(codes, width)
        WHEN 4 THEN qvec.levels4(codes, width)
        WHEN 5 THEN qvec.levels5(codes, width)
        WHEN 6 THEN qvec.levels6(codes, width)
        WHEN 8 THEN qvec.levels8(codes, width)
    END;
COMMENT ON FUNCTION qvec.levels(bit, integer, integer)
    IS 'The levels of codes in unary, (count - 1) * width bits; count is 2, 3, 4, 5, 6 or 8, other counts give NULL';

CREATE OR REPLACE FUNCTION qvec.levels(embedding vector, calibration text, count integer) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    planes integer := qvec._level_planes(count);
    codes bit varying;
BEGIN
    IF planes IS NULL THEN
        RAISE EXCEPTION 'count is % levels, expected 2, 3, 4, 5, 6 or 8', count USING ERRCODE = 'invalid_parameter_value';
    END IF;
    codes := qvec.quantize(embedding, calibration, planes);
    RETURN qvec.levels(codes, length(codes) / planes, count);
END $$;
COMMENT ON FUNCTION qvec.levels(vector, text, integer)
    IS 'The levels of a vector in unary: count - 1 bits for each dimension; their Hamming distance is the distance of '
       'the levels';

CREATE OR REPLACE FUNCTION qvec.levels(embedding halfvec, calibration text, count integer) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.levels(embedding::vector, calibration, count);
COMMENT ON FUNCTION qvec.levels(halfvec, text, integer)
    IS 'The levels of a vector in unary: count - 1 bits for each dimension; their Hamming distance is the distance of '
       'the levels';

CREATE OR REPLACE FUNCTION qvec._level_planes(count integer) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE count @LEVEL_PLANES@ END;
COMMENT ON FUNCTION qvec._level_planes(integer) IS 'Number of planes that qvec.levels reads; NULL for unknown counts';

CREATE OR REPLACE FUNCTION qvec._levels(prefilter text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE prefilter @PREFILTER_LEVELS@ END;
COMMENT ON FUNCTION qvec._levels(text) IS 'Number of levels of a prefilter; NULL for learned bits';

-- All sums are integers below 2^24, which float32 adds exactly in any order.
CREATE OR REPLACE FUNCTION qvec.learned(codes bit, calibration text) RETURNS bit
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
    width integer;
    steps vector;
BEGIN
    SELECT dimensions, projection, bias INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(calibration) USING ERRCODE = 'no_data_found';
    ELSIF k.projection IS NULL THEN
        RAISE EXCEPTION 'calibration % has no learned bits', calibration
            USING HINT = 'Make one that has: qvec adapt', ERRCODE = 'invalid_parameter_value';
    ELSIF qvec._plane_count(codes, k.dimensions) < 8 THEN
        RAISE EXCEPTION 'the codes have % planes, learned bits need at least 8', qvec._plane_count(codes, k.dimensions)
            USING ERRCODE = 'data_exception';
    END IF;
    width := (k.dimensions + 7) / 8 * 8;
    steps := (
        SELECT array_agg((get_bit(codes, i) << 8) + (get_bit(codes, width + i) << 7)
                         + (get_bit(codes, 2 * width + i) << 6) + (get_bit(codes, 3 * width + i) << 5)
                         + (get_bit(codes, 4 * width + i) << 4) + (get_bit(codes, 5 * width + i) << 3)
                         + (get_bit(codes, 6 * width + i) << 2) + (get_bit(codes, 7 * width + i) << 1) - 255 ORDER BY i)
        FROM generate_series(0, k.dimensions - 1) AS i)::vector;
    RETURN (SELECT string_agg(CASE WHEN b - (w <#> steps) > 0 THEN '1' ELSE '0' END, '' ORDER BY j)
            FROM unnest(k.projection, k.bias) WITH ORDINALITY AS u (w, b, j))::bit varying;
END $$;
COMMENT ON FUNCTION qvec.learned(bit, text)
    IS 'The learned bits of codes of at least 8 planes, by a calibration that has them';

CREATE OR REPLACE FUNCTION qvec.learned(embedding vector, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.learned(qvec.quantize(embedding, calibration, 8), calibration);
COMMENT ON FUNCTION qvec.learned(vector, text) IS 'The learned bits of a vector, by a calibration that has them';

CREATE OR REPLACE FUNCTION qvec.learned(embedding halfvec, calibration text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.learned(embedding::vector, calibration);
COMMENT ON FUNCTION qvec.learned(halfvec, text) IS 'The learned bits of a vector, by a calibration that has them';

CREATE OR REPLACE FUNCTION qvec._learned_bits(calibration text) RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT cardinality(bias) FROM qvec.calibration AS stored WHERE stored.id = calibration);
COMMENT ON FUNCTION qvec._learned_bits(text) IS 'Number of learned bits of a calibration; NULL if it has none';

CREATE OR REPLACE FUNCTION qvec._planes(rescore text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE rescore WHEN 'int10' THEN 10 WHEN 'int8' THEN 8 WHEN 'int4' THEN 4 WHEN 'binary' THEN 1 END;
COMMENT ON FUNCTION qvec._planes(text) IS 'Number of planes of a precision; NULL for float16 and float32';
