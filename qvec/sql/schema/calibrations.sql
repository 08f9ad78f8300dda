-- Calibrations: stored, verified, imported and exported.

CREATE TABLE IF NOT EXISTS qvec.calibration (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    content bytea NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    dimensions integer,
    threshold vector,
    radius vector,
    deviation vector,
    mean vector,
    std vector,
    scale vector,
    safe_norm float8,
    length_base float8[],
    length_scale float8[],
    length_digits1 bit varying,
    length_digits4 bit varying,
    length_digits8 bit varying,
    length_digits10 bit varying,
    projection vector[],
    bias integer[]
);
ALTER TABLE qvec.calibration  -- read by every query, so not compressed
    ALTER COLUMN projection SET STORAGE EXTERNAL,
    ALTER COLUMN length_digits1 SET STORAGE EXTERNAL, ALTER COLUMN length_digits4 SET STORAGE EXTERNAL,
    ALTER COLUMN length_digits8 SET STORAGE EXTERNAL, ALTER COLUMN length_digits10 SET STORAGE EXTERNAL;
COMMENT ON TABLE qvec.calibration
    IS 'How the floats of a model become codes; the id is the hash of content, a safetensors file';
COMMENT ON COLUMN qvec.calibration.threshold
    IS 'This and the following columns are read from content; NULL above the 16,000 dimensions of a vector';
COMMENT ON COLUMN qvec.calibration.scale IS '128 / radius in float32, with a radius of at least 2^-120';
COMMENT ON COLUMN qvec.calibration.safe_norm
    IS 'Vectors up to this norm neither overflow nor underflow when they are quantized';
COMMENT ON COLUMN qvec.calibration.projection
    IS 'Of learned bits: bit j is [<projection[j], 2 * code - 255> + bias[j] > 0], in integers that float32 '
       'represents exactly';
COMMENT ON COLUMN qvec.calibration.length_base
    IS 'Element p of this and the next column, and length_digits followed by p: results of qvec._length for codes of p '
       'planes. The digits have a column for each p, so that a search reads only those of its codes';

CREATE OR REPLACE FUNCTION qvec._verify_calibration() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    header record := qvec._header(NEW.content);
    threshold real[];
    radius real[];
    deviation real[];
    mean real[];
    std real[];
    scale real[];
    fits boolean;
    length record;
BEGIN
    IF header.metadata IS NULL THEN
        RAISE EXCEPTION 'calibration % is damaged: its content is not a safetensors file written by qvec', NEW.id
            USING ERRCODE = 'data_exception';
    ELSIF qvec._id_matches(NEW.id, header.metadata, qvec._hashed_arrays(header.arrays, NEW.content, header.start))
          IS NOT TRUE THEN
        RAISE EXCEPTION 'calibration % is damaged: its content does not hash to its id', NEW.id
            USING ERRCODE = 'data_exception';
    END IF;
    NEW.metadata := header.metadata::jsonb - 'id';
    IF (NEW.metadata ->> 'format')::int NOT IN (1, 2) THEN
        RAISE EXCEPTION 'calibration % has format %, this version of the schema reads formats 1 and 2',
            NEW.id, NEW.metadata ->> 'format' USING HINT = 'qvec sql upgrade', ERRCODE = 'data_exception';
    END IF;
    NEW.dimensions := (NEW.metadata ->> 'dimensions')::int;
    threshold := qvec._float32_array(header.arrays, NEW.content, header.start, 'threshold');
    radius := qvec._float32_array(header.arrays, NEW.content, header.start, 'radius');
    scale := ARRAY(SELECT (128 / greatest(r::float8, power(2::float8, -120)))::real FROM unnest(radius) AS r);
    NEW.safe_norm := (
        SELECT CASE WHEN min(s) >= 1 THEN 1e38 / max(s) - max(abs(t::float8)) ELSE -1 END
        FROM unnest(threshold, scale) AS u (t, s));
    deviation := qvec._float32_array(header.arrays, NEW.content, header.start, 'deviation');
    mean := qvec._float32_array(header.arrays, NEW.content, header.start, 'mean');
    std := qvec._float32_array(header.arrays, NEW.content, header.start, 'std');
    IF EXISTS (SELECT FROM unnest(threshold, radius, deviation, mean, std) AS u (t, r, d, m, s)
               WHERE num_nulls(t, r, d, m, s) > 0 OR 'NaN' IN (t, r, d, m, s))
       OR cardinality(threshold) <> NEW.dimensions THEN
        RAISE EXCEPTION 'calibration % is damaged: its arrays are not % finite numbers each', NEW.id, NEW.dimensions
            USING ERRCODE = 'data_exception';
    END IF;
    fits := NEW.dimensions <= 16000;
    NEW.threshold := CASE WHEN fits THEN threshold::vector END;
    NEW.radius := CASE WHEN fits THEN radius::vector END;
    NEW.scale := CASE WHEN fits THEN scale::vector END;
    NEW.deviation := CASE WHEN fits THEN deviation::vector END;
    NEW.mean := CASE WHEN fits THEN mean::vector END;
    NEW.std := CASE WHEN fits THEN std::vector END;
    IF fits AND NEW.metadata ->> 'format' = '2' THEN
        NEW.projection := qvec._read_projection(
            qvec._array_bytes(header.arrays, NEW.content, header.start, 'projection'), NEW.dimensions);
        NEW.bias := qvec._read_int32s(qvec._array_bytes(header.arrays, NEW.content, header.start, 'bias'));
        IF EXISTS (SELECT FROM unnest(NEW.projection, NEW.bias) AS u (w, b)
                   WHERE num_nulls(w, b) > 0 OR 255 * l1_distance(w, w - w) + abs(b) >= 16777216) THEN
            RAISE EXCEPTION 'calibration % is damaged: its projection and bias do not fit each other', NEW.id
                USING ERRCODE = 'data_exception';
        END IF;
    END IF;
    IF fits THEN
        FOR length IN
            SELECT p AS planes, l.*
            FROM (VALUES (1, ARRAY(SELECT 2 * d::float8 FROM unnest(deviation) AS d)),
                         (4, ARRAY(SELECT r::float8 / 8 FROM unnest(radius) AS r)),
                         (8, ARRAY(SELECT r::float8 / 128 FROM unnest(radius) AS r)),
                         (10, ARRAY(SELECT r::float8 / 512 FROM unnest(radius) AS r))) AS steps (p, step),
                qvec._length(threshold, step, p) AS l
        LOOP
            NEW.length_base[length.planes] := length.base;
            NEW.length_scale[length.planes] := length.scale;
            CASE length.planes
                WHEN 1 THEN NEW.length_digits1 := length.digits;
                WHEN 4 THEN NEW.length_digits4 := length.digits;
                WHEN 8 THEN NEW.length_digits8 := length.digits;
                WHEN 10 THEN NEW.length_digits10 := length.digits;
            END CASE;
        END LOOP;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION qvec._verify_calibration()
    IS 'Trigger: verifies the hash of a calibration and fills the columns that are read from its content';

CREATE OR REPLACE FUNCTION qvec._refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION 'calibration % is immutable: its id is the hash of its content', OLD.id
        USING HINT = 'Import the changed calibration as a new one.', ERRCODE = 'object_not_in_prerequisite_state';
END $$;
COMMENT ON FUNCTION qvec._refuse_change() IS 'Trigger: rejects changes of a calibration';

CREATE OR REPLACE TRIGGER verify BEFORE INSERT OR UPDATE ON qvec.calibration
    FOR EACH ROW EXECUTE FUNCTION qvec._verify_calibration();
-- Rows that an older version of the schema stored:
UPDATE qvec.calibration SET content = content WHERE dimensions IS NULL;
ALTER TABLE qvec.calibration ALTER COLUMN dimensions SET NOT NULL, ALTER COLUMN safe_norm SET NOT NULL;

CREATE OR REPLACE TRIGGER immutable BEFORE UPDATE ON qvec.calibration
    FOR EACH ROW EXECUTE FUNCTION qvec._refuse_change();

CREATE OR REPLACE FUNCTION qvec.import_calibration(content bytea) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    id text := (SELECT metadata::jsonb ->> 'id' FROM qvec._header(content));
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'this is not a calibration: expected a safetensors file written by qvec'
            USING ERRCODE = 'data_exception';
    END IF;
    INSERT INTO qvec.calibration (id, content) VALUES (id, content)
        ON CONFLICT ON CONSTRAINT calibration_pkey DO NOTHING;
    RETURN id;
END $$;
COMMENT ON FUNCTION qvec.import_calibration(bytea)
    IS 'Stores a calibration from the bytes of its file, after verifying its hash; returns its id';

CREATE OR REPLACE FUNCTION qvec.import_calibration(calibration jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF jsonb_typeof(calibration -> 'content') IS DISTINCT FROM 'string' THEN
        RAISE EXCEPTION 'this is not a calibration: expected the object that qvec.export_calibration returns'
            USING ERRCODE = 'data_exception';
    END IF;
    RETURN qvec.import_calibration(decode(calibration ->> 'content', 'base64'));
END $$;
COMMENT ON FUNCTION qvec.import_calibration(jsonb)
    IS 'Stores a calibration exported by qvec.export_calibration, after verifying its hash; returns its id';

CREATE OR REPLACE FUNCTION qvec.export_calibration(id text) RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    stored record;
BEGIN
    SELECT k.content, k.metadata INTO stored FROM qvec.calibration AS k WHERE k.id = export_calibration.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no calibration %', quote_literal(id) USING ERRCODE = 'no_data_found';
    END IF;
    RETURN jsonb_build_object('id', id, 'metadata', stored.metadata,
                              'content', translate(encode(stored.content, 'base64'), E'\n', ''));
END $$;
COMMENT ON FUNCTION qvec.export_calibration(text)
    IS 'A calibration as JSON: id, metadata, and content (the bytes of its file in base64)';
