-- Search.

CREATE OR REPLACE FUNCTION qvec._candidates(layout record, k integer, oversampling float8, candidates integer)
    RETURNS integer
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    factor float8 := coalesce(oversampling, layout.oversampling::numeric);
BEGIN
    IF k IS NULL OR k < 1 THEN
        RAISE EXCEPTION 'k is %, expected at least 1', coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT factor BETWEEN 1 AND 1e6 THEN
        RAISE EXCEPTION 'oversampling is %, expected at least 1', factor USING ERRCODE = 'invalid_parameter_value';
    ELSIF candidates < k THEN
        RAISE EXCEPTION 'candidates is %, expected at least k, which is %', candidates, k
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN coalesce(candidates, least(ceil(k * factor), 2147483647)::int);
END $$;
COMMENT ON FUNCTION qvec._candidates(record, integer, float8, integer)
    IS 'Number of candidates that the prefilter returns for a query';

-- The settings hold until the end of the transaction, or until the returned values are set again.
CREATE OR REPLACE FUNCTION qvec._set_settings(wanted jsonb) RETURNS jsonb
    LANGUAGE sql VOLATILE
    RETURN (
        SELECT jsonb_object_agg(name, former)
        FROM (SELECT name, current_setting(name, true) AS former, value FROM jsonb_each_text(wanted) AS w (name, value)
              OFFSET 0) AS setting,
            LATERAL (SELECT set_config(name, value, true) WHERE former IS NOT NULL OFFSET 0) AS done);
COMMENT ON FUNCTION qvec._set_settings(jsonb) IS 'Sets those settings that exist; returns their former values';

-- As qvec.defaults.ef_search in Python. pgvector stops after ef_search rows, unless it scans iteratively, which it can from
-- 0.8 on. Searches for fewer than 10 hits are as wide as those for 10, up to pgvector's default.
CREATE OR REPLACE FUNCTION qvec._scan_settings(k integer, candidates integer) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN jsonb_build_object(
            'hnsw.ef_search',
            least(greatest(ceil(@EF_PER_CANDIDATE@ * candidates),
                           least(ceil(10 * ceil(@EF_PER_CANDIDATE@ * candidates) / k), @DEFAULT_EF_SEARCH@)),
                  @MAX_EF_SEARCH@)::int,
            'hnsw.iterative_scan', 'relaxed_order')
        || CASE WHEN candidates <= @MAX_EF_SEARCH@ THEN '{}'
                ELSE jsonb_build_object('hnsw.max_scan_tuples', 50 * least(candidates, 40000000),
                                        'hnsw.scan_mem_multiplier', 8) END;
COMMENT ON FUNCTION qvec._scan_settings(integer, integer)
    IS 'Settings of the index scan that returns the given number of candidates for k hits';

-- Since the snapshot of this search, a switch of versions may have renamed the table and given its name to the other
-- version. So find the current name by the oid and read from the table: the lock keeps the name until the transaction
-- ends.
CREATE OR REPLACE FUNCTION qvec._lock_name(relation regclass) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    name text;
BEGIN
    LOOP
        name := (SELECT identity FROM pg_identify_object('pg_class'::regclass, relation, 0));
        IF name IS NULL THEN
            RAISE EXCEPTION 'the collection was switched to another version, and this version was dropped'
                USING HINT = 'Search again, in a new transaction.', ERRCODE = 'serialization_failure';
        END IF;
        BEGIN
            EXECUTE format('SELECT FROM %s LIMIT 0', name);
            EXIT WHEN to_regclass(name) = relation;
        EXCEPTION WHEN undefined_table THEN
            NULL;  -- renamed in the meantime
        END;
    END LOOP;
    RETURN name;
END $$;
COMMENT ON FUNCTION qvec._lock_name(regclass)
    IS 'The qualified name of a table, which cannot change until the transaction ends';

CREATE OR REPLACE FUNCTION qvec._run_search(
    collection text, queries vector[], k integer, oversampling float8, filter jsonb, candidates integer, exact boolean)
    RETURNS TABLE (query integer, id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    wanted integer := qvec._candidates(layout, k, oversampling, candidates);
    everything boolean := coalesce(exact, false)
        OR wanted > @MAX_EF_SEARCH@ AND current_setting('hnsw.iterative_scan', true) IS NULL;
    former jsonb;
    incomplete integer[];
    numbers integer[];
    prepared record;
    hit record;
BEGIN
    layout.source := qvec._lock_name(layout.relation);
    SELECT array_agg(n ORDER BY n) AS n, array_agg(p.bits ORDER BY n) AS bits, array_agg(p.floats ORDER BY n) AS floats,
           array_agg(p.base ORDER BY n) AS base, array_agg(p.scale ORDER BY n) AS scale,
           array_agg(p.digits ORDER BY n) AS digits
    INTO prepared
    FROM unnest(queries) WITH ORDINALITY AS q (v, n),
        LATERAL qvec._query(q.v, layout.calibration, layout.prefilter, layout.planes) AS p;
    incomplete := prepared.n;
    IF NOT everything THEN
        former := qvec._set_settings(qvec._scan_settings(k, wanted));
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
        PERFORM qvec._set_settings(former);
    END IF;
    -- The index returned too few rows: the collection is small, or few rows pass the filter or the row-level policy.
    -- Score every row instead.
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
COMMENT ON FUNCTION qvec._run_search(text, vector[], integer, float8, jsonb, integer, boolean)
    IS 'The hits of each query, in no particular order';

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
COMMENT ON FUNCTION qvec.search(text, vector, integer, float8, jsonb, integer, boolean)
    IS 'The k rows nearest to a query, best first. The prefilter finds candidates (k * oversampling of them unless '
       'given), which are then scored';

CREATE OR REPLACE FUNCTION qvec.search(
    collection text, query halfvec, k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL, exact boolean DEFAULT false)
    RETURNS TABLE (id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY SELECT * FROM qvec.search(collection, query::vector, k, oversampling, filter, candidates, exact);
END $$;
COMMENT ON FUNCTION qvec.search(text, halfvec, integer, float8, jsonb, integer, boolean)
    IS 'The k rows nearest to a query, best first';

CREATE OR REPLACE FUNCTION qvec.search(
    collection text, queries vector[], k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL, exact boolean DEFAULT false)
    RETURNS TABLE (query integer, id text, score float8, document text, metadata jsonb)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN QUERY SELECT * FROM qvec._run_search(collection, queries, k, oversampling, filter, candidates, exact) AS hit
        ORDER BY hit.query, hit.score DESC;
END $$;
COMMENT ON FUNCTION qvec.search(text, vector[], integer, float8, jsonb, integer, boolean)
    IS 'The k rows nearest to each query of an array, best first; queries are numbered from 1';

CREATE OR REPLACE FUNCTION qvec.explain(
    collection text, query vector, k integer DEFAULT 10, oversampling float8 DEFAULT NULL, filter jsonb DEFAULT NULL,
    candidates integer DEFAULT NULL) RETURNS SETOF text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    wanted integer := qvec._candidates(layout, k, oversampling, candidates);
    prepared record := qvec._query(query, layout.calibration, layout.prefilter, layout.planes);
    former jsonb := qvec._set_settings(qvec._scan_settings(k, wanted));
BEGIN
    layout.source := qvec._lock_name(layout.relation);
    RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF) ' || qvec._search_sql(layout, k, wanted, filter)
        USING ARRAY[prepared.bits], ARRAY[prepared.floats], ARRAY[prepared.base], ARRAY[prepared.scale],
              ARRAY[prepared.digits];
    PERFORM qvec._set_settings(former);
END $$;
COMMENT ON FUNCTION qvec.explain(text, vector, integer, float8, jsonb, integer) IS 'The plan of a search, with times';
