-- Drift: how far the newest rows have moved from the rows that the calibration was fitted to.

CREATE OR REPLACE FUNCTION qvec._drift_of_floats(
    layout record, sample_size integer, OUT rows bigint, OUT mean_shift float8, OUT spread_ratio float8,
    OUT bit_balance float8, OUT clip_rate float8, OUT largest_clip_rate float8)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    sample vector[];
    k record;
BEGIN
    EXECUTE format('SELECT array_agg(qvec._prepare(v, %L)) FROM (SELECT %s::vector AS v FROM %s WHERE %s IS NOT NULL'
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
COMMENT ON FUNCTION qvec._drift_of_floats(record, integer) IS 'Drift of the newest rows, from their floats';

-- A code is clipped if all its bits are equal: it is the lowest or the highest code. One plane cannot show that.
CREATE OR REPLACE FUNCTION qvec._drift_of_codes(
    layout record, sample_size integer, OUT rows bigint, OUT bit_balance float8, OUT clip_rate float8,
    OUT largest_clip_rate float8)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    sample bit varying[];
BEGIN
    EXECUTE format('SELECT array_agg(c)'
                   ' FROM (SELECT %1$s::bit varying AS c FROM %2$s ORDER BY ctid DESC LIMIT %3$s) AS recent',
                   layout.codes, layout.source, sample_size) INTO sample;
    rows := coalesce(cardinality(sample), 0);
    SELECT avg(positive), CASE WHEN layout.planes > 1 THEN avg(clipped) END,
           CASE WHEN layout.planes > 1 THEN max(clipped) END
    INTO bit_balance, clip_rate, largest_clip_rate
    FROM (SELECT i, avg(get_bit(c, i)) AS positive, avg(get_bit(ends, i)) AS clipped
          FROM unnest(sample) AS c,
              LATERAL (SELECT bit_and(plane) | ~bit_or(plane) AS ends
                       FROM generate_series(0, layout.planes - 1) AS p,
                           LATERAL (SELECT substring(c FROM p * layout.width + 1 FOR layout.width) AS plane) AS sliced
                      ) AS all_planes,
              generate_series(0, layout.dimensions - 1) AS i
          GROUP BY i) AS d;
END $$;
COMMENT ON FUNCTION qvec._drift_of_codes(record, integer) IS 'Drift of the newest rows, from their codes';

CREATE OR REPLACE FUNCTION qvec.drift(
    collection text, sample_size integer DEFAULT 1000, OUT rows bigint, OUT largest_mean_shift float8,
    OUT median_spread_ratio float8, OUT mean_bit_balance float8, OUT mean_clip_rate float8,
    OUT largest_clip_rate float8)
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
COMMENT ON FUNCTION qvec.drift(text, integer)
    IS 'How far the newest rows have moved from the rows that the calibration was fitted to: means and spread if '
       'the collection keeps floats, otherwise only bit balance and clip rates';
