-- qvec: the whole schema, for a new database or one that has it already (every statement can be run again).
-- Needs PostgreSQL 14 or newer and pgvector 0.7 or newer; SQL and PL/pgSQL only.

CREATE SCHEMA IF NOT EXISTS qvec;
COMMENT ON SCHEMA qvec IS 'Quantized vectors: calibrations, collections and their loads';

CREATE TABLE IF NOT EXISTS qvec.calibration (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    content bytea NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.calibration IS 'How a model''s floats become codes; content is the safetensors file that the id hashes';

CREATE TABLE IF NOT EXISTS qvec.collection (
    name text PRIMARY KEY CHECK (name <> ''),
    relation regclass NOT NULL UNIQUE,
    calibration text NOT NULL REFERENCES qvec.calibration (id),
    id_type text NOT NULL CHECK (id_type IN ('bigint', 'text')),
    rescore text NOT NULL CHECK (rescore IN ('int8', 'int4', 'float16', 'float32')),
    prefilter text NOT NULL CHECK (prefilter IN ('ternary', 'binary')),
    oversampling real NOT NULL DEFAULT 4 CHECK (oversampling >= 1),
    model text,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.collection IS 'A named table of rows that share one calibration';

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
COMMENT ON TABLE qvec.ingest IS 'How far each source has been loaded; written in the transaction that writes its rows';

-- The two bits of each dimension's level (-1, 0, +1) in unary, from the four top planes of its code:
-- [code >= 144] and then [code >= 112], width bits each. Inlined into the index expression and the search.
CREATE OR REPLACE FUNCTION qvec.ternary(codes bit, width integer) RETURNS bit
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (substring(codes from 1 for width)
            & (substring(codes from width + 1 for width)
               | substring(codes from 2 * width + 1 for width)
               | substring(codes from 3 * width + 1 for width)))
        || (substring(codes from 1 for width)
            | (substring(codes from width + 1 for width)
               & substring(codes from 2 * width + 1 for width)
               & substring(codes from 3 * width + 1 for width)));
COMMENT ON FUNCTION qvec.ternary(bit, integer) IS 'Ternary levels as 2 * width bits, from codes of at least four planes of width bits';

CREATE OR REPLACE FUNCTION qvec.version() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '0.1.0';
COMMENT ON FUNCTION qvec.version() IS 'Version of qvec that installed this schema';
