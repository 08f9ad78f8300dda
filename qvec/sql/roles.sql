-- Two roles for applications: run this as a role that may create roles, in the database that has the schema qvec.
-- What they may do with a collection's rows is said for its table, as for any other: GRANT SELECT ON docs TO qvec_reader.
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qvec_reader') THEN
        CREATE ROLE qvec_reader NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qvec_writer') THEN
        CREATE ROLE qvec_writer NOLOGIN;
    END IF;
    -- A reader searches: the functions run with the caller's own rights.
    GRANT USAGE ON SCHEMA qvec TO qvec_reader, qvec_writer;
    GRANT SELECT ON ALL TABLES IN SCHEMA qvec TO qvec_reader, qvec_writer;
    -- A writer loads, calibrates, and creates and drops collections of its own.
    GRANT INSERT ON qvec.calibration TO qvec_writer;
    GRANT INSERT, UPDATE, DELETE ON qvec.collection, qvec.attachment, qvec.ingest, qvec.version TO qvec_writer;
END $roles$;
