-- The vectors that codes represent, and scores of codes.

CREATE OR REPLACE FUNCTION qvec._plane_count(codes bit, dimensions integer) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    width integer := (dimensions + 7) / 8 * 8;
BEGIN
    IF length(codes) % width <> 0 OR length(codes) / width NOT BETWEEN 1 AND 10 THEN
        RAISE EXCEPTION 'the codes have % bits, expected 1 to 10 planes of %', length(codes), width
            USING ERRCODE = 'data_exception';
    END IF;
    RETURN length(codes) / width;
END $$;
COMMENT ON FUNCTION qvec._plane_count(bit, integer) IS 'Number of planes of codes of the given dimensions';

-- With p planes, a code c represents threshold + (c + 1/2 - 2^(p-1)) * radius / 2^(p-1), each operation rounded to
-- float32; with one plane, threshold + deviation or threshold - deviation.
CREATE OR REPLACE FUNCTION qvec._decode(codes bit, calibration text) RETURNS float8[]
    LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    k record;
    planes integer;
    width integer;
    half integer;
    more integer;  -- planes after the eighth
    missing integer;  -- planes up to the eighth
    padded bit varying;
BEGIN
    SELECT dimensions, threshold, radius, deviation INTO k FROM qvec.calibration AS stored WHERE stored.id = calibration;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(calibration) USING ERRCODE = 'no_data_found';
    END IF;
    planes := qvec._plane_count(codes, k.dimensions);
    width := length(codes) / planes;
    half := 1 << planes - 1;
    IF planes = 1 THEN
        RETURN ARRAY(
            SELECT qvec._round_float32(t + (2 * get_bit(codes, i::int - 1) - 1) * d::float8)
            FROM unnest(k.threshold::real[], k.deviation::real[]) WITH ORDINALITY AS u (t, d, i));
    END IF;
    more := greatest(planes - 8, 0);
    missing := greatest(8 - planes, 0);
    padded := codes || repeat('0', missing * width)::bit varying;
    RETURN ARRAY(
        SELECT qvec._round_float32(
            t + qvec._round_float32((level + 0.5::float8 - half) * qvec._round_float32(r::float8 / half)))
        FROM unnest(k.threshold::real[], k.radius::real[]) WITH ORDINALITY AS u (t, r, i),
            LATERAL (SELECT i::int - 1 AS at OFFSET 0) AS place,
            LATERAL (SELECT (((get_bit(padded, at) << 7) + (get_bit(padded, width + at) << 6)
                              + (get_bit(padded, 2 * width + at) << 5) + (get_bit(padded, 3 * width + at) << 4)
                              + (get_bit(padded, 4 * width + at) << 3) + (get_bit(padded, 5 * width + at) << 2)
                              + (get_bit(padded, 6 * width + at) << 1) + get_bit(padded, 7 * width + at))
                             << more >> missing)
                            + CASE more
                                  WHEN 2 THEN (get_bit(padded, 8 * width + at) << 1) + get_bit(padded, 9 * width + at)
                                  WHEN 1 THEN get_bit(padded, 8 * width + at)
                                  ELSE 0
                              END AS level OFFSET 0) AS c
        ORDER BY i);
END $$;
COMMENT ON FUNCTION qvec._decode(bit, text) IS 'The vector that codes represent, as float64';

CREATE OR REPLACE FUNCTION qvec.dequantize(codes bit, calibration text) RETURNS vector
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec._decode(codes, calibration)::vector;
COMMENT ON FUNCTION qvec.dequantize(bit, text) IS 'The vector that codes represent, with as many planes as they have';

-- Under cosine, vectors have length 1, but decoded vectors have another length.
CREATE OR REPLACE FUNCTION qvec._divides_by_length(metric text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN metric = 'cosine';
COMMENT ON FUNCTION qvec._divides_by_length(text)
    IS 'Whether scores of codes are divided by the length of the decoded vector';

CREATE OR REPLACE FUNCTION qvec.score(codes bit, query vector, calibration text) RETURNS float8
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (SELECT CASE WHEN (SELECT qvec._divides_by_length(metadata ->> 'metric')
                              FROM qvec.calibration AS stored WHERE stored.id = calibration)
                        THEN coalesce(sum(x * q) / nullif(sqrt(sum(x * x)), 0), 0)
                        ELSE sum(x * q) END
            FROM unnest(qvec._decode(codes, calibration), qvec._prepare(query, calibration)::real[]) AS u (x, q));
COMMENT ON FUNCTION qvec.score(bit, vector, text)
    IS 'An estimate of the metric: the inner product of a query and the vector that codes represent. Under cosine '
       'the query is normalized and the product is divided by the length of that vector';

CREATE OR REPLACE FUNCTION qvec.score(codes bit, query halfvec, calibration text) RETURNS float8
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN qvec.score(codes, query::vector, calibration);
COMMENT ON FUNCTION qvec.score(bit, halfvec, text)
    IS 'An estimate of the metric: the inner product of a query and the vector that codes represent. Under cosine '
       'the query is normalized and the product is divided by the length of that vector';

CREATE OR REPLACE FUNCTION qvec.hamming(codes bit, query bit) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN bit_count(substring(codes FROM 1 FOR length(query)) # query)::int;
COMMENT ON FUNCTION qvec.hamming(bit, bit)
    IS 'Hamming distance of a query and codes; if the codes are longer, their first bits are compared';
