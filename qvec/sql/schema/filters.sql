-- Filters: the filter language of the SDK, compiled to SQL. A row never makes a condition fail: the type of a value is
-- checked before it is cast.

CREATE OR REPLACE FUNCTION qvec._iso_date() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '^(?:((?:(?!0000)[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)'
        '|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)'
        '-02-29))(?:[T ]((?:[01][0-9]|2[0-3]):[0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?'
        '(Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)?)?)?)$';
COMMENT ON FUNCTION qvec._iso_date() IS 'Regular expression of the strings that are dates';

-- A date without a zone is in UTC. Digits below the microsecond are cut off; Postgres would round them.
CREATE OR REPLACE FUNCTION qvec._instant(text text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN text ~ qvec._iso_date() THEN
        (regexp_replace(text, '(\.[0-9]{6})[0-9]+', '\1')
         || CASE WHEN text ~ ':[0-9.]+(Z|[+-][0-9:]+)$' THEN '' ELSE 'Z' END)::timestamptz END;
COMMENT ON FUNCTION qvec._instant(text) IS 'The instant of an ISO 8601 date; NULL for any other string';

CREATE OR REPLACE FUNCTION qvec._reject_operand(field text, wanted text, operand jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION '%: % found, % wanted', field, coalesce(left(operand::text, 60), 'nothing'), wanted
        USING ERRCODE = 'invalid_parameter_value';
END $$;
COMMENT ON FUNCTION qvec._reject_operand(text, text, jsonb) IS 'Raises the error for an operand of the wrong type';

CREATE OR REPLACE FUNCTION qvec._equals(value text, operand jsonb, field text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE jsonb_typeof(operand)
        WHEN 'object' THEN qvec._reject_operand(field, 'a string, number, true, false or null', operand)
        WHEN 'array' THEN qvec._reject_operand(field, 'a string, number, true, false or null', operand)
        WHEN 'number' THEN format('((jsonb_typeof(%1$s) = ''number'' AND %1$s = %2$L::jsonb)'
                                  ' OR (jsonb_typeof(%1$s) = ''array'' AND %1$s @> %2$L::jsonb))', value, operand)
        ELSE format('(%s @> %L::jsonb)', value, operand)
    END;
COMMENT ON FUNCTION qvec._equals(text, jsonb, text) IS 'SQL of $eq';

-- A string that is a date is an instant.
CREATE OR REPLACE FUNCTION qvec._ordered_kind(operand jsonb, field text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    kind text := jsonb_typeof(operand);
BEGIN
    IF kind IS NULL OR kind NOT IN ('number', 'string') THEN
        RETURN qvec._reject_operand(field, 'a number, string or date', operand);
    ELSIF kind = 'string' AND qvec._instant(operand #>> '{}') IS NOT NULL THEN
        IF extract(year FROM qvec._instant(operand #>> '{}') AT TIME ZONE 'UTC') NOT BETWEEN 1 AND 9999 THEN
            RETURN qvec._reject_operand(field, 'a date that is in the years 1 to 9999 in UTC', operand);
        END IF;
        RETURN 'instant';
    END IF;
    RETURN kind;
END $$;
COMMENT ON FUNCTION qvec._ordered_kind(jsonb, text)
    IS 'Kind of the operand of an ordering operator: number, string or instant';

-- The value must be of the operand's kind. The first 64 characters of strings are compared separately, because the
-- indexes created by the SDK hold only these.
CREATE OR REPLACE FUNCTION qvec._comparison(value text, operator text, kind text, operand jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE kind
        WHEN 'number' THEN format('%s %s %L::jsonb', value, operator, operand)
        WHEN 'string' THEN format(
            'left(%1$s #>> ''{}'', 64) COLLATE "C" %2$s= %3$L::text AND %1$s #>> ''{}'' %4$s %5$L::text COLLATE "C"',
            value, left(operator, 1), left(operand #>> '{}', 64), operator, operand #>> '{}')
        WHEN 'instant' THEN format('qvec._instant(%s #>> ''{}'') %s %L::timestamptz', value, operator, to_char(
            qvec._instant(operand #>> '{}') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
        ELSE format('(%s #>> ''{}'') COLLATE "C" %s %L', value, operator, operand #>> '{}')
    END;
COMMENT ON FUNCTION qvec._comparison(text, text, text, jsonb) IS 'SQL of one comparison or pattern on one value';

-- All comparisons must hold for the same value: that of the field or, if it is an array, one of its elements.
CREATE OR REPLACE FUNCTION qvec._any_value(value text, kind text, operators text[], operands jsonb[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        SELECT format(
            '((jsonb_typeof(%1$s) = %2$L AND %3$s) OR (jsonb_typeof(%1$s) = ''array'' AND EXISTS (SELECT FROM'
            ' jsonb_array_elements(CASE WHEN jsonb_typeof(%1$s) = ''array'' THEN %1$s END) AS element(value)'
            ' WHERE jsonb_typeof(element.value) = %2$L AND %4$s)))',
            value, CASE kind WHEN 'number' THEN kind ELSE 'string' END,
            string_agg(qvec._comparison(value, operator, kind, operand), ' AND '),
            string_agg(qvec._comparison('element.value', operator, kind, operand), ' AND '))
        FROM unnest(operators, operands) AS u (operator, operand));
COMMENT ON FUNCTION qvec._any_value(text, text, text[], jsonb[])
    IS 'SQL of comparisons that must hold for one value of a field';

CREATE OR REPLACE FUNCTION qvec._operator(value text, field text, operator text, operand jsonb, depth integer)
    RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    name text := format('field %L: %s', field, operator);
    sides jsonb := '{"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}';
BEGIN
    IF operator IN ('$ne', '$nin') THEN
        RETURN format('(%s IS NOT TRUE)', qvec._operator(
            value, field, CASE operator WHEN '$ne' THEN '$eq' ELSE '$in' END, operand, depth));
    ELSIF operator = '$eq' THEN
        RETURN qvec._equals(value, operand, name);
    ELSIF sides ? operator THEN
        RETURN qvec._any_value(value, qvec._ordered_kind(operand, name), ARRAY[sides ->> operator], ARRAY[operand]);
    ELSIF operator = '$between' THEN
        IF jsonb_typeof(operand) <> 'array' OR jsonb_array_length(operand) <> 2
           OR qvec._ordered_kind(operand -> 0, name) <> qvec._ordered_kind(operand -> 1, name) THEN
            RETURN qvec._reject_operand(name, 'a list of two values of the same kind, [low, high],', operand);
        END IF;
        RETURN qvec._any_value(value, qvec._ordered_kind(operand -> 0, name), '{>=,<=}',
                               ARRAY[operand -> 0, operand -> 1]);
    ELSIF operator = '$in' OR operator = '$contains' AND jsonb_typeof(operand) = 'array' THEN
        IF jsonb_typeof(operand) <> 'array' OR operator = '$contains' AND operand = '[]' THEN
            RETURN qvec._reject_operand(name, 'a list of scalars', operand);
        END IF;
        RETURN (
            SELECT coalesce('(' || string_agg(qvec._equals(value, item, name),
                                              CASE operator WHEN '$in' THEN ' OR ' ELSE ' AND ' END) || ')', 'false')
            FROM jsonb_array_elements(operand) AS u (item));
    ELSIF operator = '$contains' THEN
        RETURN qvec._equals(value, operand, name);
    ELSIF operator = '$exists' THEN
        IF jsonb_typeof(operand) <> 'boolean' THEN
            RETURN qvec._reject_operand(name, 'true or false', operand);
        END IF;
        RETURN format('((%s NOT IN (''null'', ''[]'')) IS %s TRUE)',
                      value, CASE WHEN operand = 'false' THEN 'NOT' ELSE '' END);
    ELSIF operator IN ('$like', '$ilike') THEN
        IF jsonb_typeof(operand) <> 'string' OR operand #>> '{}' ~ '^(.*[^\\])?(\\\\)*\\$' THEN
            RETURN qvec._reject_operand(
                name, 'a pattern such as "intro%" that does not end in a single backslash,', operand);
        END IF;
        RETURN qvec._any_value(value, 'pattern', ARRAY[upper(substr(operator, 2))], ARRAY[operand]);
    ELSIF operator = '$not' THEN
        IF jsonb_typeof(operand) <> 'object' THEN
            RETURN qvec._reject_operand(name, 'an object of operators', operand);
        END IF;
        RETURN format('(%s IS NOT TRUE)', qvec._condition(value, field, operand, depth + 1));
    END IF;
    RAISE EXCEPTION 'field %: % is not an operator', quote_literal(field), quote_literal(operator)
        USING HINT = 'The operators are: $eq $ne $lt $lte $gt $gte $in $nin $between $exists $like $ilike $contains $not',
              ERRCODE = 'invalid_parameter_value';
END $$;
COMMENT ON FUNCTION qvec._operator(text, text, text, jsonb, integer) IS 'SQL of one operator on a field';

CREATE OR REPLACE FUNCTION qvec._condition(value text, field text, operators jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF depth > 50 THEN
        RAISE EXCEPTION 'the filter is nested more than 50 deep; write it flatter'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF operators = '{}' THEN
        RETURN qvec._reject_operand(format('field %L', field), 'one operator or more', operators);
    ELSIF jsonb_typeof(operators) = 'object' THEN
        RETURN (SELECT format('(%s)', string_agg(qvec._operator(value, field, key, operand, depth), ' AND '))
                FROM jsonb_each(operators) AS entry (key, operand));
    END IF;
    RETURN qvec._equals(value, operators, format('field %L', field));
END $$;
COMMENT ON FUNCTION qvec._condition(text, text, jsonb, integer)
    IS 'SQL of the value of a field in a filter: operators, or a scalar';

CREATE OR REPLACE FUNCTION qvec._entry(metadata text, key text, operand jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF key IN ('$and', '$or') THEN
        IF jsonb_typeof(operand) <> 'array' OR operand = '[]' THEN
            RETURN qvec._reject_operand(key, 'a list of one filter or more', operand);
        END IF;
        RETURN (SELECT format('(%s)', string_agg(qvec._conditions(metadata, part, depth + 1),
                                                 CASE key WHEN '$or' THEN ' OR ' ELSE ' AND ' END))
                FROM jsonb_array_elements(operand) AS u (part));
    ELSIF key = '$not' THEN
        RETURN format('(%s IS NOT TRUE)', qvec._conditions(metadata, operand, depth + 1));
    ELSIF left(key, 1) = '$' THEN
        RAISE EXCEPTION '% is not an operator of a whole filter', quote_literal(key)
            USING HINT = 'A filter has $and $or $not; the other operators belong to a field: {"field": {"$gte": 1}}',
                  ERRCODE = 'invalid_parameter_value';
    ELSIF '' = ANY (string_to_array(key, '.')) OR key = '' THEN
        RAISE EXCEPTION 'field %: an empty name found, names separated by single dots wanted', quote_literal(key)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN qvec._condition(
        (SELECT format('(%s -> %s)', metadata, string_agg(quote_literal(part), ' -> ' ORDER BY i))
         FROM unnest(string_to_array(key, '.')) WITH ORDINALITY AS u (part, i)),
        key, operand, depth + 1);
END $$;
COMMENT ON FUNCTION qvec._entry(text, text, jsonb, integer) IS 'SQL of one entry of a filter';

CREATE OR REPLACE FUNCTION qvec._conditions(metadata text, filter jsonb, depth integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF depth > 50 THEN
        RAISE EXCEPTION 'the filter is nested more than 50 deep; write it flatter'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(filter) IS DISTINCT FROM 'object' THEN
        RETURN qvec._reject_operand('the filter', 'an object of fields and operators', filter);
    END IF;
    RETURN (SELECT coalesce('(' || string_agg(qvec._entry(metadata, key, operand, depth), ' AND ') || ')', 'true')
            FROM jsonb_each(filter) AS entry (key, operand));
END $$;
COMMENT ON FUNCTION qvec._conditions(text, jsonb, integer)
    IS 'SQL of a filter; metadata is an expression for the metadata';

CREATE OR REPLACE FUNCTION qvec.filter_sql(filter jsonb, metadata_column name DEFAULT 'metadata') RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN qvec._conditions(quote_ident(metadata_column), filter, 0);
COMMENT ON FUNCTION qvec.filter_sql(jsonb, name)
    IS 'A filter as a condition for the WHERE clause of an application''s statement; names and values are quoted';

CREATE OR REPLACE FUNCTION qvec.matches(metadata jsonb, filter jsonb) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
    holds boolean;
BEGIN
    EXECUTE 'SELECT ' || qvec._conditions('$1', filter, 0) INTO holds USING metadata;
    RETURN coalesce(holds, false);
END $$;
COMMENT ON FUNCTION qvec.matches(jsonb, jsonb)
    IS 'Whether metadata passes a filter. It compiles the filter for each row, so use it on few rows';
