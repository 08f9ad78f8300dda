-- The table of a collection: its columns, the trigger that fills them, its index.

-- Column names are quoted; embedding, document, metadata and prefilter_codes are expressions over the columns.
CREATE OR REPLACE FUNCTION qvec._layout(
    collection text, OUT relation regclass, OUT source text, OUT calibration text, OUT metric text,
    OUT dimensions integer, OUT width integer, OUT rescore text, OUT prefilter text, OUT planes integer,
    OUT oversampling real, OUT id text, OUT codes text, OUT embedding text, OUT document text, OUT metadata text,
    OUT float_type text, OUT prefilter_codes text, OUT attached boolean)
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    c record;
BEGIN
    SELECT s.*, a.collection IS NOT NULL AS attached, k.dimensions, k.metadata ->> 'metric' AS metric,
           format('%I.%I', nspname, relname) AS source, (k.metadata ->> 'cut_from')::int AS cut_from,
           a.id_column, a.codes_column, a.vector_column, a.document_column, a.metadata_column
    INTO c
    FROM qvec.collection AS s JOIN qvec.calibration AS k ON k.id = s.calibration
    JOIN pg_class ON pg_class.oid = s.relation JOIN pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN qvec.attachment AS a ON a.collection = s.name
    WHERE s.name = _layout.collection;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no collection %', quote_literal(collection)
            USING HINT = 'There are: ' || coalesce(
                      (SELECT string_agg(name, ', ' ORDER BY name) FROM qvec.collection), 'none'),
                  ERRCODE = 'undefined_table';
    END IF;
    relation := c.relation; source := c.source; calibration := c.calibration; metric := c.metric;
    dimensions := c.dimensions; rescore := c.rescore; prefilter := c.prefilter; oversampling := c.oversampling;
    attached := c.attached;
    width := (dimensions + 7) / 8 * 8;
    planes := qvec._planes(rescore);
    id := quote_ident(coalesce(c.id_column, 'id'));
    codes := quote_ident(coalesce(c.codes_column, 'codes'));
    embedding := quote_ident(coalesce(c.vector_column, 'embedding'));
    IF attached AND c.cut_from > dimensions THEN
        embedding := format('subvector(%s, 1, %s)', embedding, dimensions);
    END IF;
    document := CASE WHEN attached AND c.document_column IS NULL THEN 'NULL::text'
                     ELSE quote_ident(coalesce(c.document_column, 'document')) END;
    metadata := CASE WHEN attached AND c.metadata_column IS NULL THEN 'NULL::jsonb'
                     ELSE quote_ident(coalesce(c.metadata_column, 'metadata')) END;
    float_type := CASE WHEN attached THEN (SELECT atttypid::regtype::text FROM pg_attribute
                                           WHERE attrelid = c.relation AND attname = c.vector_column)
                       ELSE CASE rescore WHEN 'float16' THEN 'halfvec' ELSE 'vector' END END;
    prefilter_codes := CASE
        WHEN planes IS NULL THEN format('(%s)', codes)
        WHEN prefilter = 'learned' THEN '(learned)'
        WHEN prefilter = 'binary' THEN format('(substring(%s from 1 for %s)::bit(%s))', codes, width, width)
        ELSE format('(qvec.%I(%s, %s)::bit(%s))', prefilter, codes, width, (qvec._levels(prefilter) - 1) * width)
    END;
END $$;
COMMENT ON FUNCTION qvec._layout(text) IS 'Layout of the table of a collection, derived from its settings';

CREATE OR REPLACE FUNCTION qvec._codes(embedding vector, calibration text, rescore text, prefilter text) RETURNS bit
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN CASE
        WHEN qvec._planes(rescore) IS NOT NULL THEN qvec.quantize(embedding, calibration, qvec._planes(rescore))
        WHEN prefilter = 'learned' THEN qvec.learned(embedding, calibration)
        ELSE qvec.levels(embedding, calibration, qvec._levels(prefilter))
    END;
COMMENT ON FUNCTION qvec._codes(vector, text, text, text) IS 'The value of a collection''s codes column for a vector';

CREATE OR REPLACE FUNCTION qvec._fill_row() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    calibration text := TG_ARGV[0];
    rescore text := TG_ARGV[1];
BEGIN
    NEW.codes := qvec._codes(NEW.embedding_in, calibration, rescore, TG_ARGV[2]);
    IF TG_ARGV[2] = 'learned' AND qvec._planes(rescore) IS NOT NULL THEN
        NEW.learned := qvec.learned(NEW.embedding_in, calibration);
    END IF;
    IF rescore IN ('float16', 'float32') THEN
        NEW.embedding := qvec._prepare(NEW.embedding_in, calibration);
    END IF;
    NEW.embedding_in := NULL;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qvec._fill_row()
    IS 'Trigger of a collection: fills codes, learned bits and floats from embedding_in';

-- A name that would exceed 63 bytes is cut and followed by a hash, as in Python.
CREATE OR REPLACE FUNCTION qvec._index_name(table_name name) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    bytes bytea := convert_to(table_name::text, 'UTF8');
    kept integer := 45;
BEGIN
    IF length(bytes) <= 54 THEN
        RETURN table_name || '_qvec_idx';
    END IF;
    WHILE get_byte(bytes, kept) BETWEEN 128 AND 191 LOOP  -- do not cut inside a character
        kept := kept - 1;
    END LOOP;
    RETURN convert_from(substring(bytes FOR kept), 'UTF8') || '_' || left(encode(sha256(bytes), 'hex'), 8)
        || '_qvec_idx';
END $$;
COMMENT ON FUNCTION qvec._index_name(name) IS 'Name of the index of a collection''s table';

CREATE OR REPLACE FUNCTION qvec.index_statement(collection text, concurrent boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    layout record := qvec._layout(collection);
BEGIN
    RETURN (
        SELECT format('CREATE INDEX %s IF NOT EXISTS %I ON %s USING hnsw (%s %I.bit_hamming_ops)'
                      ' WITH (m = @HNSW_M@, ef_construction = @HNSW_EF_CONSTRUCTION@)',
                      CASE WHEN concurrent THEN 'CONCURRENTLY' ELSE '' END, qvec._index_name(relname), layout.source,
                      layout.prefilter_codes, (SELECT nspname FROM pg_extension JOIN pg_namespace AS n
                                               ON n.oid = extnamespace WHERE extname = 'vector'))
        FROM pg_class WHERE oid = layout.relation);
END $$;
COMMENT ON FUNCTION qvec.index_statement(text, boolean)
    IS 'The statement that builds the index of a collection; if concurrent, run it outside of a function and a '
       'transaction (psql: \gexec)';

CREATE OR REPLACE FUNCTION qvec.build_index(collection text) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE qvec.index_statement(collection, concurrent => false);
END $$;
COMMENT ON FUNCTION qvec.build_index(text)
    IS 'Builds the index of a collection in this transaction; meanwhile searches continue and writes wait';

CREATE OR REPLACE VIEW qvec.collections AS
    SELECT c.name, c.relation, nullif(greatest(r.reltuples, -1), -1)::bigint AS rows_estimated, k.dimensions,
           c.rescore, c.prefilter, c.oversampling, c.model, c.calibration, a.collection IS NOT NULL AS attached,
           pg_total_relation_size(c.relation) - coalesce(i.bytes, 0) AS table_bytes, coalesce(i.bytes, 0) AS index_bytes,
           coalesce(i.valid, false) AS has_index, c.created_at
    FROM qvec.collection AS c
    JOIN qvec.calibration AS k ON k.id = c.calibration
    JOIN pg_class AS r ON r.oid = c.relation
    LEFT JOIN qvec.attachment AS a ON a.collection = c.name
    LEFT JOIN LATERAL (
        SELECT sum(pg_relation_size(indexrelid))::bigint AS bytes, bool_or(indisvalid) AS valid
        FROM pg_index JOIN pg_class AS x ON x.oid = indexrelid
        WHERE indrelid = c.relation AND x.relname = qvec._index_name(r.relname)) AS i ON true;
COMMENT ON VIEW qvec.collections
    IS 'Collections with their sizes on disk; rows_estimated is of the last ANALYZE or VACUUM';
