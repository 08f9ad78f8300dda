-- Queries as they are compared with rows, and the statement of a search.

-- Under ip, the length of a query does not change the order of rows, but a short query has the prefilter bits of a zero
-- vector. At twice the length of rows, the prefilter finds the most neighbours where lengths differ.
CREATE OR REPLACE FUNCTION qvec._scale_query(x vector, calibration text) RETURNS vector
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
    wanted := (SELECT 2 * sqrt(sum(m::float8 * m + s::float8 * s))
               FROM unnest(k.mean::real[], k.std::real[]) AS u (m, s));
    IF wanted > 0 AND qvec._squared_norm(x) > 0 THEN
        -- Rounded to multiples of 2^-24, so that no product underflows in float32.
        one := qvec._fill(1, vector_dims(x));
        RETURN ((qvec._normalize(x) + one) - one) * array_fill(wanted, ARRAY[vector_dims(x)])::vector;
    END IF;
    RETURN x;
END $$;
COMMENT ON FUNCTION qvec._scale_query(vector, text)
    IS 'The query from which prefilter bits are computed: under ip, scaled to twice the length of rows';

CREATE OR REPLACE FUNCTION qvec._query(
    query vector, calibration text, prefilter text, planes integer,
    OUT bits bit varying, OUT floats vector, OUT base float8, OUT scale float8, OUT digits bit varying)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    one vector;
    steps vector;
    levels integer := qvec._levels(prefilter);
    k record;
    d record;
BEGIN
    floats := qvec._prepare(query, calibration);
    IF floats IS NULL THEN
        RAISE EXCEPTION 'the query is NULL, a vector wanted' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    bits := qvec.quantize(qvec._scale_query(floats, calibration), calibration,
                          coalesce(qvec._level_planes(levels), 8));
    bits := CASE WHEN levels IS NULL THEN qvec.learned(bits, calibration)
                 ELSE qvec.levels(bits, length(bits) / qvec._level_planes(levels), levels) END;
    IF planes IS NULL THEN
        RETURN;
    END IF;
    SELECT threshold, CASE planes WHEN 1 THEN deviation ELSE radius END AS step INTO k
        FROM qvec.calibration AS stored WHERE stored.id = calibration;
    -- Both at norm 1 and rounded to multiples of 2^-23, so that their products do not underflow in float32.
    one := qvec._fill(1, vector_dims(floats));
    steps := (l2_normalize(k.step) + one) - one;
    d := qvec._digits(((l2_normalize(floats) + one) - one) * steps);
    digits := d.digits;
    scale := -d.factor * vector_norm(floats) * vector_norm(k.step)
        * CASE planes WHEN 1 THEN 2 ELSE 2.0 ^ (1 - planes) END;
    base := -(floats <#> k.threshold) - scale / 2 * vector_dims(floats) * (2 ^ planes - 1) * 65535;
END $$;
COMMENT ON FUNCTION qvec._query(vector, text, text, integer)
    IS 'A prepared query: its prefilter bits, its floats, and the coefficients and digits that score codes';

-- Parameters are arrays over the queries: $1 prefilter bits, $2 floats, $3 base, $4 scale, $5 digits. Each hit comes
-- with the number of candidates found. If candidates is NULL, every row is scored.
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
        CASE layout.planes  -- raises an error for any other number
            WHEN 10 THEN query := qvec._digits_sql(10); score := qvec._score_sql(10);
            WHEN 8 THEN query := qvec._digits_sql(8); score := qvec._score_sql(8);
            WHEN 4 THEN query := qvec._digits_sql(4); score := qvec._score_sql(4);
            WHEN 1 THEN query := qvec._digits_sql(1); score := qvec._score_sql(1);
        END CASE;
        query := 'bits, base, scale' || replace(query, 'WIDTH', layout.width::text);
        score := format('base + scale * (%s)', replace(score, 'WIDTH', layout.width::text));
        IF qvec._divides_by_length(layout.metric) THEN
            score := format('coalesce((%s) / sqrt(nullif(greatest(%s, least_length), least_length)), 0)',
                            score, qvec._length_sql());
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
COMMENT ON FUNCTION qvec._search_sql(record, integer, integer, jsonb)
    IS 'The statement of a search for one or more queries';
