-- Version 0.1.0 has tables and the function qvec.ternary only.
ALTER TABLE qvec.calibration
    ADD COLUMN dimensions integer,
    ADD COLUMN threshold vector,
    ADD COLUMN radius vector,
    ADD COLUMN deviation vector,
    ADD COLUMN mean vector,
    ADD COLUMN std vector,
    ADD COLUMN scale vector,
    ADD COLUMN safe_norm float8,
    ADD COLUMN length_base float8[],
    ADD COLUMN length_scale float8[],
    ADD COLUMN length_digits1 bit varying,
    ADD COLUMN length_digits4 bit varying,
    ADD COLUMN length_digits8 bit varying,
    ADD COLUMN length_digits10 bit varying,
    ADD COLUMN projection vector[],
    ADD COLUMN bias integer[];
ALTER TABLE qvec.calibration
    ALTER COLUMN projection SET STORAGE EXTERNAL,
    ALTER COLUMN length_digits1 SET STORAGE EXTERNAL, ALTER COLUMN length_digits4 SET STORAGE EXTERNAL,
    ALTER COLUMN length_digits8 SET STORAGE EXTERNAL, ALTER COLUMN length_digits10 SET STORAGE EXTERNAL;

ALTER TABLE qvec.collection
    DROP CONSTRAINT collection_rescore_check,
    ADD CONSTRAINT collection_rescore_check CHECK (
        rescore IN (@RESCORES@)),
    DROP CONSTRAINT collection_prefilter_check,
    ADD CONSTRAINT collection_prefilter_check CHECK (prefilter IN (@PREFILTERS@)),
    ADD COLUMN embedding jsonb CHECK (jsonb_typeof(embedding) = 'object');
