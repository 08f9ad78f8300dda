-- Collections: created and dropped.

CREATE TABLE IF NOT EXISTS qvec.collection (
    name text PRIMARY KEY CHECK (name <> ''),
    relation regclass NOT NULL UNIQUE,
    calibration text NOT NULL REFERENCES qvec.calibration (id),
    id_type text NOT NULL CHECK (id_type IN ('bigint', 'text')),
    rescore text NOT NULL CHECK (rescore IN (@RESCORES@)),
    prefilter text NOT NULL CHECK (prefilter IN (@PREFILTERS@)),
    oversampling real NOT NULL CHECK (oversampling >= 1),
    model text,
    created_at timestamptz NOT NULL DEFAULT now(),
    embedding jsonb CHECK (jsonb_typeof(embedding) = 'object')
);
ALTER TABLE qvec.collection ALTER COLUMN oversampling SET DEFAULT @DEFAULT_OVERSAMPLING@;
COMMENT ON TABLE qvec.collection IS 'A collection: a table whose rows share one calibration';
COMMENT ON COLUMN qvec.collection.embedding
    IS 'How texts are embedded, in addition to the model: model_name on a server, task, query_prefix, document_prefix';

CREATE TABLE IF NOT EXISTS qvec.ingest (
    collection text NOT NULL REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    source text NOT NULL,
    fingerprint text NOT NULL,
    first_id bigint,
    position bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    rejects_size bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, source)
);
COMMENT ON TABLE qvec.ingest
    IS 'Checkpoint of each source: how far it has been loaded; written in the transaction that writes the rows';

-- A collection that keeps fewer planes than levels are read from has the binary prefilter and no other.
CREATE OR REPLACE FUNCTION qvec._default_prefilter(rescore text, learned_bits integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN qvec._planes(rescore) < qvec._level_planes(qvec._levels('@DEFAULT_PREFILTER@')) THEN 'binary'
                WHEN learned_bits > 0 THEN 'learned'
                ELSE '@DEFAULT_PREFILTER@' END;
COMMENT ON FUNCTION qvec._default_prefilter(text, integer)
    IS 'The prefilter of a collection that names none';

CREATE OR REPLACE FUNCTION qvec._check_collection(
    name text, calibration text, rescore text, prefilter text, oversampling float8) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    bits integer;
BEGIN
    IF name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 63 OR name ~ '[%[:cntrl:]]' THEN
        RAISE EXCEPTION 'collection name % is not 1 to 63 printable bytes without %%', quote_nullable(name)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF EXISTS (SELECT FROM qvec.collection AS c WHERE c.name = _check_collection.name) THEN
        RAISE EXCEPTION 'collection % exists already', quote_literal(name) USING ERRCODE = 'duplicate_object';
    ELSIF NOT EXISTS (SELECT FROM qvec.calibration AS k WHERE k.id = calibration) THEN
        RAISE EXCEPTION 'no calibration %', quote_nullable(calibration)
            USING HINT = 'Store one with qvec.calibrate or qvec.import_calibration.', ERRCODE = 'no_data_found';
    ELSIF coalesce(rescore, '') NOT IN (@RESCORES@) THEN
        RAISE EXCEPTION 'rescore is %, expected int10, int8, int4, binary, float16 or float32', quote_nullable(rescore)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    bits := qvec._learned_bits(calibration);
    prefilter := coalesce(prefilter, qvec._default_prefilter(rescore, bits));
    IF prefilter NOT IN (@PREFILTERS@) THEN
        RAISE EXCEPTION 'prefilter is %, expected one of: %', quote_nullable(prefilter),
            array_to_string(ARRAY[@PREFILTERS@], ', ') USING ERRCODE = 'invalid_parameter_value';
    ELSIF prefilter <> 'binary' AND qvec._default_prefilter(rescore, bits) = 'binary' THEN
        RAISE EXCEPTION 'prefilter is %, but rescore % keeps %: expected binary',
            quote_literal(prefilter), quote_literal(rescore),
            CASE qvec._planes(rescore) WHEN 1 THEN 'one bit' ELSE qvec._planes(rescore) || ' bits' END
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF prefilter = 'learned' AND bits IS NULL THEN
        RAISE EXCEPTION 'prefilter is ''learned'', but calibration % has no learned bits', calibration
            USING HINT = 'Make one that has: qvec adapt', ERRCODE = 'invalid_parameter_value';
    ELSIF oversampling IS NULL OR NOT oversampling >= 1 OR oversampling > 1e6 THEN
        RAISE EXCEPTION 'oversampling is %, expected at least 1', oversampling
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN prefilter;
END $$;
COMMENT ON FUNCTION qvec._check_collection(text, text, text, text, float8)
    IS 'Raises an error for settings that a collection cannot have; returns the prefilter, or the default one if it '
       'is NULL';

-- Codes, and floats, are stored in the row if two such rows fit into a page, as in collections created by Python.
CREATE OR REPLACE FUNCTION qvec.create_collection(
    name text, calibration text, rescore text DEFAULT 'int8', prefilter text DEFAULT NULL,
    id_type text DEFAULT 'bigint', oversampling float8 DEFAULT @DEFAULT_OVERSAMPLING@, model text DEFAULT NULL,
    in_schema name DEFAULT current_schema()) RETURNS regclass
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    page integer := 8160;  -- usable bytes of a page
    chosen text := qvec._check_collection(name, calibration, rescore, prefilter, oversampling);
    d integer := (SELECT dimensions FROM qvec.calibration AS k WHERE k.id = calibration);
    width integer := (d + 7) / 8 * 8;
    bits integer := coalesce(
        qvec._planes(rescore) * width,
        (qvec._levels(chosen) - 1) * width, qvec._learned_bits(calibration));
    learned integer := CASE WHEN chosen = 'learned' AND qvec._planes(rescore) IS NOT NULL
                            THEN qvec._learned_bits(calibration) END;
    code_bytes integer := 64 + (bits + coalesce(learned, 0)) / 8;
    row_bytes integer := code_bytes + CASE rescore WHEN 'float16' THEN 2 * d WHEN 'float32' THEN 4 * d ELSE 0 END;
    floats text := CASE rescore WHEN 'float16' THEN 'halfvec' WHEN 'float32' THEN 'vector' END;
    relation regclass;
BEGIN
    IF id_type IS NULL OR id_type NOT IN ('bigint', 'text') THEN
        RAISE EXCEPTION 'id_type is %, expected bigint or text', quote_nullable(id_type)
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF in_schema IS NULL THEN
        RAISE EXCEPTION 'the search_path has no schema to create the table in; name one: in_schema'
            USING ERRCODE = 'invalid_schema_name';
    END IF;
    EXECUTE format(
        'CREATE TABLE %I.%I (id %s PRIMARY KEY, codes bit(%s) NOT NULL,%s%s document text, metadata jsonb)'
        ' WITH (toast_tuple_target = %s)',
        in_schema, name, id_type, bits, ' learned bit(' || learned || ') NOT NULL,',
        CASE WHEN floats IS NULL THEN '' ELSE format(' embedding %s(%s) NOT NULL,', floats, d) END,
        least(greatest(CASE WHEN row_bytes <= page / 2 THEN row_bytes ELSE code_bytes END + 500, 2040), page));
    relation := format('%I.%I', in_schema, name)::regclass;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN codes SET STORAGE %s',
                   relation, CASE WHEN code_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    IF learned IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN learned SET STORAGE %s',
                       relation, CASE WHEN code_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    END IF;
    IF floats IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN embedding SET STORAGE %s',
                       relation, CASE WHEN row_bytes <= page / 2 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    END IF;
    INSERT INTO qvec.collection (name, relation, calibration, id_type, rescore, prefilter, oversampling, model)
        VALUES (name, relation, calibration, id_type, rescore, chosen, oversampling, model);
    PERFORM qvec.accept_vectors(name);
    RETURN relation;
END $$;
COMMENT ON FUNCTION qvec.create_collection(text, text, text, text, text, float8, text, name)
    IS 'Creates a collection and its table; write to it by INSERT INTO name (id, embedding_in, document, metadata), '
       'and build its index when it is filled';

CREATE OR REPLACE FUNCTION qvec.accept_vectors(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
BEGIN
    IF layout.attached THEN
        RAISE EXCEPTION 'collection % is an attached table; its codes are made from its own vectors',
            quote_literal(collection) USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS embedding_in vector', layout.source);
    EXECUTE format('COMMENT ON COLUMN %s.embedding_in IS %L', layout.source,
                   'Takes a vector on INSERT and UPDATE; a trigger quantizes it and stores NULL here');
    EXECUTE format('CREATE OR REPLACE TRIGGER qvec_fill BEFORE INSERT OR UPDATE ON %s FOR EACH ROW'
                   ' WHEN (NEW.embedding_in IS NOT NULL) EXECUTE FUNCTION qvec._fill_row(%L, %L, %L)',
                   layout.source, layout.calibration, layout.rescore, layout.prefilter);
END $$;
COMMENT ON FUNCTION qvec.accept_vectors(text)
    IS 'Adds the column embedding_in to a collection created by Python, so that plain INSERT can write to it';

CREATE OR REPLACE FUNCTION qvec.drop_collection(name text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(name);
BEGIN
    DELETE FROM qvec.collection AS c WHERE c.name = drop_collection.name;
    EXECUTE format('DROP TABLE %s', layout.source);
END $$;
COMMENT ON FUNCTION qvec.drop_collection(text) IS 'Drops a collection with its table; its calibration stays';
