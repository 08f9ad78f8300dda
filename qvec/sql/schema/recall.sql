-- Recall: what the index and the prefilter of a collection lose, measured in production.

-- The rows with the lowest hashes under a seed, as in Python. Only those that are drawn are decoded.
CREATE OR REPLACE FUNCTION qvec._sample_queries(layout record, size integer, seed integer)
    RETURNS TABLE (id text, query vector)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT d.id, d.query FROM (SELECT s.id, %5$s AS query FROM (SELECT %1$s::text AS id, %2$s AS stored FROM %3$s'
        ' WHERE %4$s IS NOT NULL ORDER BY hashtextextended(%1$s::text COLLATE "C", $2), %1$s LIMIT $1) AS s OFFSET 0)'
        ' AS d WHERE vector_norm(d.query) > 0',
        layout.id, CASE WHEN layout.planes IS NULL OR layout.attached THEN layout.embedding ELSE layout.codes END,
        layout.source, layout.codes,
        CASE WHEN layout.planes IS NULL OR layout.attached THEN 's.stored::vector'
             ELSE format('qvec.dequantize(s.stored, %L)', layout.calibration) END) USING size, seed::bigint;
END $$;
COMMENT ON FUNCTION qvec._sample_queries(record, integer, integer)
    IS 'Rows drawn uniformly, as queries: their floats, or their decoded codes';

-- As recall_at_k and mean_recall in qvec/client/recall.py. Each query's own row does not count, so one hit and one
-- candidate more are searched for.
CREATE OR REPLACE FUNCTION qvec.recall(
    collection text, OUT recall float8, OUT low float8, OUT high float8, INOUT queries integer DEFAULT 50,
    INOUT k integer DEFAULT 10, oversampling float8 DEFAULT NULL, seed integer DEFAULT 0, OUT candidates integer,
    OUT rows_scanned bigint)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    own text[];
    vectors vector[];
BEGIN
    candidates := qvec._candidates(layout, k, oversampling, NULL);
    IF queries IS NULL OR queries < 1 THEN
        RAISE EXCEPTION 'queries is %, expected at least 1', coalesce(queries::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF seed IS NULL THEN
        RAISE EXCEPTION 'seed is NULL, expected a number' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    layout.source := qvec._lock_name(layout.relation);
    EXECUTE format('SELECT count(%s) FROM %s', layout.codes, layout.source) INTO rows_scanned;
    IF rows_scanned <= k THEN
        RAISE EXCEPTION 'collection % has % rows, expected at least % to measure recall@%',
            quote_literal(collection), rows_scanned, k + 1, k
            USING HINT = 'A search for k of at most k rows finds them all.', ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_agg(s.id ORDER BY s.id), array_agg(s.query ORDER BY s.id) INTO own, vectors
        FROM qvec._sample_queries(layout, queries, seed) AS s;
    IF own IS NULL THEN
        RAISE EXCEPTION 'no row drawn from collection % can serve as a query', quote_literal(collection)
            USING ERRCODE = 'data_exception';
    END IF;
    WITH hit AS MATERIALIZED (
        SELECT exact, h.query, h.score,
               row_number() OVER (PARTITION BY exact, h.query ORDER BY h.score DESC) AS place
        FROM unnest(ARRAY[false, true]) AS way (exact),
            LATERAL qvec._run_search(collection, vectors, k + 1, NULL, NULL, least(candidates, 2147483646) + 1, exact)
                AS h
        WHERE h.id <> own[h.query]
    ), nearest AS (
        SELECT h.query, min(h.score) - 1e-6 * max(abs(h.score)) AS lowest, count(*) AS rows
        FROM hit AS h WHERE h.exact AND h.place <= k GROUP BY h.query
    ), of_query AS (
        SELECT least(count(h.score)::float8 / n.rows, 1) AS share
        FROM nearest AS n
        LEFT JOIN hit AS h ON h.query = n.query AND NOT h.exact AND h.place <= k AND h.score >= n.lowest
        GROUP BY n.query, n.rows
    ), measured AS (
        SELECT avg(share) AS mean, count(*) AS queries FROM of_query
    ), extended AS (
        SELECT share FROM of_query UNION ALL SELECT least(min(share), 1 - 1.0::float8 / k) FROM of_query
    ), bounds AS (
        SELECT avg(share) AS mean, 1.96 * stddev_samp(share) / sqrt(count(*)) AS margin FROM extended
    )
    SELECT m.mean, greatest(b.mean - b.margin, 0), least(m.mean + b.margin, 1), m.queries
        INTO recall, low, high, queries
        FROM measured AS m, bounds AS b;
END $$;
COMMENT ON FUNCTION qvec.recall(text, integer, integer, float8, integer)
    IS 'The share of the k nearest rows that searches for sampled rows find, with its 95% confidence interval; the '
       'nearest are those of an exact search, so it shows what the index and the prefilter lose';
