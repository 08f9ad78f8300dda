-- Vectors as they are quantized: cut to the dimensions of their calibration and, under cosine, at norm 1.
-- Every operation rounds to float32 where the numpy specification in the tests does.

-- A sum, product or quotient of two float32 numbers, computed in float64 and rounded to float32, equals the result in
-- float32. Out of range, Postgres itself would raise an error.
CREATE OR REPLACE FUNCTION qvec._round_float32(x float8) RETURNS float8
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN abs(x) <= power(2::float8, -150) THEN 0 * x
        WHEN abs(x) < power(2::float8, 128) - power(2::float8, 103) THEN x::real::float8
        ELSE sign(x) * 'Infinity'::float8
    END;
COMMENT ON FUNCTION qvec._round_float32(float8) IS 'A number rounded to float32; infinite or zero if out of range';

-- Eight running sums, sum l over dimensions l, l + 8, …, which are then added in order.
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
COMMENT ON FUNCTION qvec._squared_norm(vector) IS 'The squared norm, added in the order of the specification';

-- The norm of pgvector adds in another order: it can tell that a vector is normalized already, but is not exact enough
-- to divide by.
CREATE OR REPLACE FUNCTION qvec._normalize(x vector) RETURNS vector
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
    -- A quotient that rounds to zero keeps its sign; Postgres would raise an underflow error.
    RETURN ARRAY(
        SELECT CASE WHEN abs(e / squared) > power(2::float8, -150) THEN (e / squared)::real ELSE (0 * e)::real END
        FROM unnest(x::real[]) AS e)::vector;
END $$;
COMMENT ON FUNCTION qvec._normalize(vector)
    IS 'The vector at norm 1; unchanged if its squared norm is within 2e-4 of 1';

CREATE OR REPLACE FUNCTION qvec._prepare(x vector, calibration text) RETURNS vector
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
    RETURN CASE WHEN k.metric = 'cosine' THEN qvec._normalize(x) ELSE x END;
END $$;
COMMENT ON FUNCTION qvec._prepare(vector, text)
    IS 'A vector as it is quantized: checked, cut to the dimensions of the calibration and, under cosine, normalized';
