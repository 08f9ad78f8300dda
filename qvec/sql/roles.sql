-- Two roles for applications. Run this in the database that has the schema qvec, as a role that may create roles.
-- Grant rights on the table of a collection as for any table: GRANT SELECT ON docs TO qvec_reader.
DO $roles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qvec_reader') THEN
        CREATE ROLE qvec_reader NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'qvec_writer') THEN
        CREATE ROLE qvec_writer NOLOGIN;
    END IF;
    -- A reader searches; functions run with the rights of their caller.
    GRANT USAGE ON SCHEMA qvec TO qvec_reader, qvec_writer;
    GRANT SELECT ON ALL TABLES IN SCHEMA qvec TO qvec_reader, qvec_writer;
    -- A writer loads rows, calibrates, and creates and drops its own collections.
    GRANT INSERT ON qvec.calibration TO qvec_writer;
    GRANT INSERT, UPDATE, DELETE ON qvec.collection, qvec.attachment, qvec.ingest, qvec.version TO qvec_writer;
END $roles$;
