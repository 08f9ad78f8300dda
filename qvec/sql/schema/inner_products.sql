-- Inner products of codes and floats as weighted Hamming distances, which pgvector computes fast.
--
-- Floats become 16 planes of signed digits: w = factor * sum over b of 2^b * s(D_b), where s(D) = 2 D - 1 maps bits to
-- signs. A row of p planes C_a represents threshold + step / 2 * sum over a of 2^a * s(C_a). With w = query * step,
-- their inner product is therefore base + scale * sum over a and b of 2^(a+b) * hamming(C_a, D_b).

-- Postgres inlines the function; with a constant number it computes the long vector once for each plan.
CREATE OR REPLACE FUNCTION qvec._fill(number real, dimensions integer) RETURNS vector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN subvector(array_fill(number, '{16000}')::vector, 1, dimensions);
COMMENT ON FUNCTION qvec._fill(real, integer) IS 'The same number in each dimension';

-- A number is rounded to the nearest 1 / (127 * 512) * sum over b of 2^b * (2 D_b - 1).
CREATE OR REPLACE FUNCTION qvec._signed_digits(z vector) RETURNS bit varying
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    c64 vector := qvec._fill(64, vector_dims(z));
    c127 vector := qvec._fill(127, vector_dims(z));
    round128 vector := qvec._fill(1610612736, vector_dims(z)); -- 1.5 * 2^30
    least_digit vector := qvec._fill(0.001953125, vector_dims(z)); -- 2^-9
    round_even vector := qvec._fill(49152, vector_dims(z)); -- 1.5 * 2^15: its last bit is 2^-8
    padding bit varying := repeat('0', (8 - vector_dims(z) % 8) % 8)::bit varying;
    digits bit varying := '';
BEGIN
    -- Round to 16 digits, the first of weight 64: to an odd multiple of 2^-9, so that no remainder is a tie.
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

CREATE OR REPLACE FUNCTION qvec._digits(w vector, OUT factor float8, OUT digits bit varying)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    one vector := qvec._fill(1, vector_dims(w));
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
COMMENT ON FUNCTION qvec._digits(vector)
    IS 'Numbers as 16 planes of signed digits, lowest first, and the weight of the lowest';

-- One Hamming distance for each weight 2^s covers all pairs of planes with a + b = s: the planes of codes have their
-- highest plane first and the digits their lowest, so that those pairs are adjacent. WIDTH stands for the bits of a
-- plane. Called with constants, the function is evaluated once for each statement of a session.
CREATE OR REPLACE FUNCTION qvec._score_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT string_agg(
            format('%s * hamming_distance(%s, digits%s)', 2 ^ s,
                   CASE WHEN low = 0 AND high = planes - 1 THEN 'codes'
                        ELSE format('substring(codes from %s * WIDTH + 1 for %s * WIDTH)',
                                    planes - 1 - high, high - low + 1)
                   END, s),
            ' + ' ORDER BY s)
        FROM generate_series(0, planes + 14) AS s,
            LATERAL (SELECT greatest(0, s - 15) AS low, least(planes - 1, s) AS high) AS plane);
COMMENT ON FUNCTION qvec._score_sql(integer)
    IS 'SQL of the weighted Hamming distances of codes and the digits of a query';

CREATE OR REPLACE FUNCTION qvec._digits_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT string_agg(format(', substring(digits from %s * WIDTH + 1 for %s * WIDTH) AS digits%s',
                                 s - high, high - low + 1, s), '' ORDER BY s)
        FROM generate_series(0, planes + 14) AS s,
            LATERAL (SELECT greatest(0, s - 15) AS low, least(planes - 1, s) AS high) AS plane);
COMMENT ON FUNCTION qvec._digits_sql(integer)
    IS 'SQL that cuts the digits of a query into the parts that _score_sql compares';

-- Rounded to multiples of 2^-23, so that no operation underflows in float32.
CREATE OR REPLACE FUNCTION qvec._length_weights(numbers float8[], factor float8, most float8) RETURNS bit varying
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN qvec._signed_digits(ARRAY(
        SELECT coalesce(round(8388608 * (factor * n) / nullif(most, 0)) / 8388608, 0)
        FROM unnest(numbers) AS n)::vector);
COMMENT ON FUNCTION qvec._length_weights(float8[], float8, float8)
    IS 'Digits of factor * numbers / most: weights of a plane or of a pair of planes in the squared length';

-- The squared length of a decoded row. With signs s_a = s(C_a), so that s_a^2 = 1, it is
--     |threshold|^2 + |step|^2 / 4 * sum over a of 4^a
--     + sum over planes a of 2^a * <threshold * step, s_a>
--     - sum over pairs a, b of planes of 2^(a+b) / 2 * <step^2, s(C_a xor C_b)>.
-- With these weights as digits, in the order in which _length_bits_sql puts planes and pairs, it is
-- base + scale * sum over b of 2^b * hamming(planes and pairs, digits_b).
CREATE OR REPLACE FUNCTION qvec._length(
    threshold real[], step float8[], planes integer, OUT base float8, OUT scale float8, OUT digits bit varying)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    linear float8[] := ARRAY(SELECT t * s FROM unnest(threshold, step) AS u (t, s));
    squares float8[] := ARRAY(SELECT -s * s / 2 FROM unnest(step) AS s);
    most float8 := (
        SELECT max(greatest(2 ^ (planes - 1) * abs(l), CASE WHEN planes > 1 THEN 2 ^ (2 * planes - 3) * abs(s) END))
        FROM unnest(linear, squares) AS u (l, s));
    width integer := (cardinality(step) + 7) / 8 * 8;
    weights bit varying[];
    exponent integer;
    of_exponents bit varying[];  -- the same for all pairs whose numbers have the same sum
BEGIN
    FOR apart IN 0..planes - 1 LOOP  -- first the planes themselves, then pairs of adjacent planes, and so on
        FOR a IN REVERSE planes - 1..apart LOOP
            IF apart = 0 THEN
                weights := weights || qvec._length_weights(linear, 2 ^ a, most);
            ELSE
                exponent := 2 * a - apart;
                IF of_exponents[exponent] IS NULL THEN
                    of_exponents[exponent] := qvec._length_weights(squares, 2 ^ exponent, most);
                END IF;
                weights := weights || of_exponents[exponent];
            END IF;
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
COMMENT ON FUNCTION qvec._length(real[], float8[], integer) IS 'Coefficients of the squared length of decoded rows';

-- The planes, followed by the xor of all pairs of planes that are 1 apart, then of those 2 apart, and so on.
CREATE OR REPLACE FUNCTION qvec._length_bits_sql(planes integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN 'codes' || coalesce((
        SELECT string_agg(
            format(' || (substring(codes from 1 for %1$s * WIDTH)'
                   ' # substring(codes from %2$s * WIDTH + 1 for %1$s * WIDTH))',
                   planes - apart, apart), '' ORDER BY apart)
        FROM generate_series(1, planes - 1) AS apart), '');
COMMENT ON FUNCTION qvec._length_bits_sql(integer)
    IS 'SQL of the planes of codes and of all pairs of planes: the bits that length_digits weighs';

CREATE OR REPLACE FUNCTION qvec._length_sql() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT 'length_base + length_scale * ('
                || string_agg(format('%s * hamming_distance(pairs, length%s)', 2 ^ b, b), ' + ' ORDER BY b) || ')'
            FROM generate_series(0, 15) AS b);
COMMENT ON FUNCTION qvec._length_sql() IS 'SQL of the squared length of decoded rows';

-- One row with the stored results of qvec._length, the digits cut into the parts that _length_sql compares. The error
-- of a squared length is at most least_length; rows below that count as having no length. The inner substring and
-- OFFSET 0 read the digits once instead of 16 times.
CREATE OR REPLACE FUNCTION qvec._length_source_sql(calibration text, planes integer, dimensions integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT format(
            '(SELECT length_base, length_scale, -0.51 * length_scale * %2$s AS least_length, %3$s'
            ' FROM (SELECT length_base[%1$s], length_scale[%1$s], substring(length_digits%1$s from 1) AS length_digits'
            ' FROM qvec.calibration WHERE id = %4$L OFFSET 0) AS terms) AS lengths',
            planes, dimensions * pairs,
            string_agg(format('substring(length_digits from %s for %s) AS length%s', 1 + b * pairs * width,
                              pairs * width, b), ', ' ORDER BY b), calibration)
        FROM generate_series(0, 15) AS b,
            LATERAL (SELECT planes * (planes + 1) / 2 AS pairs, (dimensions + 7) / 8 * 8 AS width) AS w
        GROUP BY pairs);
COMMENT ON FUNCTION qvec._length_source_sql(text, integer, integer)
    IS 'SQL of the coefficients of the squared length of rows of a calibration';
