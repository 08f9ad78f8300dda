-- Fitting a calibration to the vectors of a table, with the same results as in Python.

-- As numpy.quantile: interpolated from the nearer number in float64, then rounded to float32. Only the numbers from the
-- quantile up are sorted, which for high ones are few.
CREATE OR REPLACE FUNCTION qvec._upper_quantile(numbers real[], quantile float8) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    place float8 := (cardinality(numbers) - 1) * quantile;
    share float8 := place - floor(place);
    kept integer := cardinality(numbers) - floor(place)::int;
    greatest_first real[] := ARRAY(SELECT x FROM unnest(numbers) AS x ORDER BY x DESC LIMIT kept);
    lower float8 := greatest_first[kept];
    upper float8 := greatest_first[greatest(kept - 1, 1)];
BEGIN
    RETURN qvec._round_float32(CASE WHEN share >= 0.5 THEN upper - (upper - lower) * (1 - share)
                                    ELSE lower + (upper - lower) * share END);
END $$;
COMMENT ON FUNCTION qvec._upper_quantile(real[], float8) IS 'A quantile of numbers';

CREATE OR REPLACE FUNCTION qvec._prepare_sample(x vector, dimensions integer, metric text) RETURNS vector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    IF dimensions < vector_dims(x) THEN
        x := subvector(x, 1, dimensions);
    END IF;
    RETURN CASE metric WHEN 'cosine' THEN qvec._normalize(x) ELSE x END;
END $$;
COMMENT ON FUNCTION qvec._prepare_sample(vector, integer, text)
    IS 'A vector of the sample, cut and normalized as the new calibration will do it';

-- Functions in the select list, which return their rows in step, take half the time of functions in FROM.
CREATE OR REPLACE FUNCTION qvec._distances(
    sample vector[], center real[], quantile float8, OUT means real[], OUT quantiles real[])
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
        SELECT array_agg(qvec._round_float32(mean)::real ORDER BY i),
               array_agg(qvec._upper_quantile(distances, quantile)::real ORDER BY i)
        FROM (SELECT i, avg(abs(e::float8 - c)) AS mean,
                     array_agg(abs(e - c)) FILTER (WHERE quantile IS NOT NULL) AS distances
              FROM (SELECT unnest(v::real[]) AS e, unnest(center) AS c, generate_series(1, cardinality(center)) AS i
                    FROM unnest(sample) AS v) AS number GROUP BY i) AS x
    $$;
COMMENT ON FUNCTION qvec._distances(vector[], real[], float8)
    IS 'The mean and, unless it is NULL, a quantile of the distance from the threshold in each dimension';

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
        RAISE EXCEPTION 'radius is %: method fixed needs one, positive and finite, and the other methods take none',
            radius USING ERRCODE = 'invalid_parameter_value';
    ELSIF sample_size IS NULL OR sample_size < 1 THEN
        RAISE EXCEPTION 'sample_size is %, expected at least 1', sample_size USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION qvec._check_calibrate(text, text, float8, float8, float8, integer)
    IS 'Raises an error for settings that a calibration cannot have';

-- The rows with the smallest hashes are a uniform sample, the same one for the same seed.
CREATE OR REPLACE FUNCTION qvec.calibrate(
    relation regclass, vector_column name, method text DEFAULT 'quantile', metric text DEFAULT 'cosine',
    threshold float8 DEFAULT 0.5, quantile float8 DEFAULT 0.9999, radius float8 DEFAULT NULL,
    dimensions integer DEFAULT NULL, model text DEFAULT NULL, sample_size integer DEFAULT 20000,
    seed integer DEFAULT 0) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    source text := (SELECT format('%I.%I', nspname, relname)
                    FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE pg_class.oid = relation);
    drawn record;
    sample vector[];
    s record;
    center real[];
    distances record;
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
        RAISE EXCEPTION 'no vectors to calibrate on in column % of %', vector_column, relation
            USING ERRCODE = 'no_data_found';
    ELSIF drawn.least < drawn.dimensions THEN
        RAISE EXCEPTION 'vectors have % and % dimensions, expected the same number in each row',
            drawn.least, drawn.dimensions USING ERRCODE = 'data_exception';
    END IF;
    dimensions := coalesce(dimensions, drawn.dimensions);
    IF dimensions NOT BETWEEN 1 AND drawn.dimensions THEN
        RAISE EXCEPTION 'dimensions is %, but the vectors have %', dimensions, drawn.dimensions
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    sample := ARRAY(SELECT qvec._prepare_sample(v, dimensions, metric) FROM unnest(drawn.sample) AS v);
    SELECT array_agg(qvec._round_float32(x.mean)::real ORDER BY i) AS mean,
           array_agg(qvec._round_float32(x.std)::real ORDER BY i) AS std,
           array_agg(x.least ORDER BY i) AS least, array_agg(x.greatest ORDER BY i) AS greatest
    INTO s
    FROM (SELECT i, avg(e::float8) AS mean, stddev_pop(e::float8) AS std,
                 min(e) FILTER (WHERE method = 'minmax') AS least, max(e) FILTER (WHERE method = 'minmax') AS greatest
          FROM (SELECT unnest(v::real[]) AS e, generate_series(1, dimensions) AS i FROM unnest(sample) AS v) AS number
          GROUP BY i) AS x;
    center := ARRAY(SELECT qvec._round_float32(threshold::real::float8 * m)::real FROM unnest(s.mean) AS m);
    distances := qvec._distances(sample, center, CASE method WHEN 'quantile' THEN quantile END);
    made := qvec._safetensors(
        concat('{', CASE WHEN drawn.dimensions > dimensions THEN format('"cut_from":%s,', drawn.dimensions) END,
               format('"dimensions":%s,"format":1,"method":{"name":"%s","per_dimension":true,', dimensions, method),
               CASE WHEN method = 'quantile' THEN format('"quantile":%s,', qvec._json_float(quantile)) END,
               format('"threshold":%s},"metric":"%s","model":%s,"normalized":%s,"qvec":"%s",',
                      qvec._json_float(threshold), metric, qvec._json_text(model),
                      CASE WHEN drawn.unit THEN 'true' ELSE 'false' END, qvec.version()),
               format('"sample":{"drawn":"%s","seed":%s,"size":%s}}',
                      CASE WHEN drawn.total > sample_size THEN 'uniform' ELSE 'all' END, seed, cardinality(sample))),
        ARRAY[qvec._write_float32s(distances.means), qvec._write_float32s(s.mean),
              qvec._write_float32s(CASE method
                  WHEN 'quantile' THEN distances.quantiles
                  WHEN 'minmax' THEN ARRAY(SELECT greatest(g - c, c - l)
                                           FROM unnest(s.greatest, s.least, center) AS u (g, l, c))
                  ELSE array_fill(radius::real, ARRAY[dimensions]) END),
              qvec._write_float32s(s.std), qvec._write_float32s(center)],
        dimensions);
    INSERT INTO qvec.calibration (id, content) VALUES (made.id, made.content)
        ON CONFLICT ON CONSTRAINT calibration_pkey DO NOTHING;
    RETURN made.id;
END $$;
COMMENT ON FUNCTION qvec.calibrate(regclass, name, text, text, float8, float8, float8, integer, text, integer, integer)
    IS 'Fits a calibration to a random sample of a table''s vectors, stores it and returns its id. The default '
       'quantile suits int8; 0.99 is better for int4';
