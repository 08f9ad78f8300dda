-- An application's own table as a collection: attached, filled with codes in the background, detached.

CREATE TABLE IF NOT EXISTS qvec.attachment (
    collection text PRIMARY KEY REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    id_column name NOT NULL,
    vector_column name NOT NULL,
    codes_column name NOT NULL,
    document_column name,
    metadata_column name,
    blocks_done bigint NOT NULL DEFAULT 0,
    blocks_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_skipped bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.attachment
    IS 'A collection that is an application''s own table: its columns, and the progress of qvec.backfill';
COMMENT ON COLUMN qvec.attachment.rows_skipped
    IS 'Rows without codes, because their vector is zero or has the wrong number of dimensions';

-- Dropping a collection drops its table; the table of an application must stay, so it has to be detached first.
CREATE OR REPLACE FUNCTION qvec._refuse_drop() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM qvec.attachment WHERE collection = OLD.name) THEN
        RAISE EXCEPTION 'collection % is an attached table; remove its codes with qvec.detach', quote_literal(OLD.name)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN OLD;
END $$;
COMMENT ON FUNCTION qvec._refuse_drop() IS 'Trigger: rejects dropping an attached table';

CREATE OR REPLACE TRIGGER attached BEFORE DELETE ON qvec.collection
    FOR EACH ROW EXECUTE FUNCTION qvec._refuse_drop();

CREATE OR REPLACE FUNCTION qvec._trigger_name(relation regclass) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT left(relname, 40) || '_qvec_' || left(encode(sha256(convert_to(relname, 'UTF8')), 'hex'), 8)
            FROM pg_class WHERE oid = relation);
COMMENT ON FUNCTION qvec._trigger_name(regclass) IS 'Name of the trigger function of an attached table';

CREATE OR REPLACE FUNCTION qvec._primary_key(relation regclass) RETURNS name
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    key record;
BEGIN
    SELECT attname, cardinality(indkey::smallint[]) AS columns INTO key
        FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = relation AND indisprimary;
    IF key.columns IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'table % has no primary key of one column; name a unique one: id_column', relation
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN key.attname;
END $$;
COMMENT ON FUNCTION qvec._primary_key(regclass) IS 'The column of a table''s primary key, which must be a single one';

CREATE OR REPLACE FUNCTION qvec._check_column(relation regclass, column_name name, types text[]) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    type text := (SELECT atttypid::regtype::text FROM pg_attribute
                   WHERE attrelid = relation AND attname = column_name AND attnum > 0 AND NOT attisdropped);
BEGIN
    IF type IS NULL THEN
        RAISE EXCEPTION 'table % has no column %', relation, quote_nullable(column_name)
            USING ERRCODE = 'undefined_column';
    ELSIF type <> ALL (types) THEN
        RAISE EXCEPTION 'column % of table % is %, expected %',
            column_name, relation, type, array_to_string(types, ' or ') USING ERRCODE = 'datatype_mismatch';
    END IF;
END $$;
COMMENT ON FUNCTION qvec._check_column(regclass, name, text[])
    IS 'Raises an error unless a column exists and has one of the given types';

CREATE OR REPLACE FUNCTION qvec.attach(
    relation regclass, vector_column name, calibration text, collection text DEFAULT NULL, rescore text DEFAULT 'int8',
    prefilter text DEFAULT NULL, oversampling float8 DEFAULT @DEFAULT_OVERSAMPLING@, id_column name DEFAULT NULL,
    codes_column name DEFAULT 'codes', document_column name DEFAULT NULL, metadata_column name DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    name text := coalesce(collection, (SELECT relname FROM pg_class WHERE oid = relation));
    chosen text;
    key name;
    layout record;
    trigger_function text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'the table is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    chosen := qvec._check_collection(
        name, calibration, rescore, coalesce(prefilter, qvec._default_prefilter(rescore, learned_bits => 0)),
        oversampling);
    IF chosen = 'learned' THEN
        RAISE EXCEPTION 'prefilter is ''learned'', which attached tables do not have: expected another, such as %',
            '@DEFAULT_PREFILTER@'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    key := coalesce(id_column, qvec._primary_key(relation));
    IF EXISTS (SELECT FROM qvec.collection AS c WHERE c.relation = attach.relation) THEN
        RAISE EXCEPTION 'table % is a collection already', relation USING ERRCODE = 'duplicate_object';
    END IF;
    PERFORM qvec._check_column(relation, vector_column, '{vector,halfvec}'),
            qvec._check_column(relation, key, '{smallint,integer,bigint,text,"character varying",uuid}');
    IF document_column IS NOT NULL THEN
        PERFORM qvec._check_column(relation, document_column, '{text,"character varying"}');
    END IF;
    IF metadata_column IS NOT NULL THEN
        PERFORM qvec._check_column(relation, metadata_column, '{jsonb}');
    END IF;
    INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling)
        VALUES (name, relation, calibration,
                CASE WHEN (SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = relation AND attname = key)
                          IN ('smallint', 'integer', 'bigint') THEN 'bigint' ELSE 'text' END,
                rescore, chosen, oversampling);
    INSERT INTO qvec.attachment (collection, id_column, vector_column, codes_column, document_column, metadata_column)
        VALUES (name, key, vector_column, codes_column, document_column, metadata_column);
    layout := qvec._layout(name);
    EXECUTE format('ALTER TABLE %s ADD COLUMN %I bit(%s)', layout.source, codes_column,
                   layout.width * coalesce(layout.planes, qvec._levels(chosen) - 1));
    trigger_function := (
        SELECT format('%I.%I', nspname, qvec._trigger_name(relation))
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = relation);
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql SET search_path = %5$s AS $body$
        BEGIN
            NEW.%2$I := qvec._codes(NEW.%3$I::vector, %4$s);
            RETURN NEW;
        END $body$ $sql$,
        trigger_function, codes_column, vector_column,
        format('%L, %L, %L', calibration, rescore, chosen), current_setting('search_path'));
    EXECUTE format('CREATE TRIGGER qvec_codes_insert BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                   layout.source, trigger_function);
    EXECUTE format('CREATE TRIGGER qvec_codes_update BEFORE UPDATE OF %I, %I ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                   vector_column, codes_column, layout.source, trigger_function);
    RETURN name;
END $$;
COMMENT ON FUNCTION qvec.attach(regclass, name, text, text, text, text, float8, name, name, name, name)
    IS 'Makes an application''s table a collection: adds a column of codes and triggers that keep it current. '
       'Afterwards CALL qvec.backfill and run the statement returned by qvec.index_statement';

CREATE OR REPLACE FUNCTION qvec.detach(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    own record;
BEGIN
    IF NOT layout.attached THEN
        RAISE EXCEPTION 'collection % is not an attached table; drop it with qvec.drop_collection',
            quote_literal(collection) USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT format('%I.%I', nspname, qvec._index_name(relname)) AS index,
           format('%I.%I', nspname, qvec._trigger_name(layout.relation)) AS trigger_function INTO own
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = layout.relation;
    EXECUTE format('DROP INDEX IF EXISTS %s', own.index);
    EXECUTE format('DROP TRIGGER IF EXISTS qvec_codes_insert ON %s', layout.source);
    EXECUTE format('DROP TRIGGER IF EXISTS qvec_codes_update ON %s', layout.source);
    EXECUTE format('DROP FUNCTION IF EXISTS %s()', own.trigger_function);
    EXECUTE format('ALTER TABLE %s DROP COLUMN IF EXISTS %s', layout.source, layout.codes);
    DELETE FROM qvec.attachment AS a WHERE a.collection = detach.collection;
    DELETE FROM qvec.collection AS c WHERE c.name = detach.collection;
END $$;
COMMENT ON FUNCTION qvec.detach(text) IS 'Removes codes, triggers and index from an attached table; the table stays';

-- Returns whether there is more to do. The UPDATE fires the trigger that quantizes; rows written in the meantime have
-- codes already. Rows that an update moved behind the last block are found by a final scan of the whole table.
CREATE OR REPLACE FUNCTION qvec._backfill_step(collection text, blocks integer) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
    place record;
    part text := 'true';
    missing text;
    usable text;
    updated bigint;
    skipped bigint;
BEGIN
    SELECT * INTO place FROM qvec.attachment AS a WHERE a.collection = _backfill_step.collection FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'collection % is not an attached table', quote_literal(collection)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF blocks IS NULL OR blocks < 1 THEN
        RAISE EXCEPTION 'blocks_at_once is %, expected at least 1', blocks USING ERRCODE = 'invalid_parameter_value';
    ELSIF place.finished THEN
        RETURN false;
    END IF;
    place.blocks_total := coalesce(
        place.blocks_total, pg_relation_size(layout.relation) / current_setting('block_size')::int);
    place.finished := place.blocks_done >= place.blocks_total;
    IF NOT place.finished THEN
        part := format('ctid >= ''(%s,0)'' AND ctid < ''(%s,0)''',
                       place.blocks_done, least(place.blocks_done + blocks, place.blocks_total));
    END IF;
    missing := format('%s AND %s IS NULL AND %I IS NOT NULL', part, layout.codes, place.vector_column);
    usable := format(
        'vector_dims(%1$I) IN (SELECT dimensions FROM qvec.calibration WHERE id = %2$L UNION ALL'
        ' SELECT (metadata ->> ''cut_from'')::int FROM qvec.calibration WHERE id = %2$L) AND %3$s',
        place.vector_column, layout.calibration,
        CASE WHEN layout.metric = 'cosine' THEN format('vector_norm(%s::vector) > 0', layout.embedding) ELSE 'true' END);
    EXECUTE format('UPDATE %1$s SET %2$s = %2$s WHERE %3$s AND %4$s', layout.source, layout.codes, missing, usable);
    GET DIAGNOSTICS updated = ROW_COUNT;
    EXECUTE format('SELECT count(*) FROM %s WHERE %s', layout.source, missing) INTO skipped;
    UPDATE qvec.attachment AS a SET
        blocks_done = least(place.blocks_done + blocks, place.blocks_total), blocks_total = place.blocks_total,
        rows_done = place.rows_done + updated, finished = place.finished, updated_at = clock_timestamp(),
        rows_skipped = CASE WHEN place.finished THEN skipped ELSE place.rows_skipped + skipped END
        WHERE a.collection = _backfill_step.collection;
    RETURN NOT place.finished;
END $$;
COMMENT ON FUNCTION qvec._backfill_step(text, integer)
    IS 'Quantizes the rows of the next blocks of an attached table; returns whether there is more to do';

CREATE OR REPLACE PROCEDURE qvec.backfill(collection text, blocks_at_once integer DEFAULT 200)
    LANGUAGE plpgsql AS $$
BEGIN
    WHILE qvec._backfill_step(collection, blocks_at_once) LOOP
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE qvec.backfill(text, integer)
    IS 'Quantizes the existing rows of an attached table and commits after each batch; after an interruption, call '
       'it again to continue';

CREATE OR REPLACE VIEW qvec.backfills AS
    SELECT a.collection, c.relation, a.blocks_done, a.blocks_total,
           round(100.0 * a.blocks_done / nullif(a.blocks_total, 0), 1) AS percent,
           a.rows_done, a.rows_skipped, a.finished, a.updated_at
    FROM qvec.attachment AS a JOIN qvec.collection AS c ON c.name = a.collection;
COMMENT ON VIEW qvec.backfills IS 'Progress of qvec.backfill for each attached table';
