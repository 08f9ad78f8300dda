-- Versions of a collection: the same rows by another calibration, in a table that is itself a collection. A version is
-- 'new' while it is being built and 'old' after the switch. Meanwhile triggers record the ids that are written to the
-- collection in a table of changes. Every role may insert into that table, so that every role that may write to the
-- collection still can.

CREATE TABLE IF NOT EXISTS qvec.version (
    collection text PRIMARY KEY REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    name text NOT NULL UNIQUE REFERENCES qvec.collection (name) ON UPDATE CASCADE ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('new', 'old')),
    changes regclass NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE qvec.version IS 'The other version of a collection, built and kept by qvec recalibrate';
COMMENT ON COLUMN qvec.version.changes
    IS 'Table of the ids that were written to the collection but not yet to this version';

CREATE OR REPLACE FUNCTION qvec._note_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    note text := format('INSERT INTO %s (id, vector) VALUES ($1, $2)', TG_ARGV[0]);
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'table % has another version, which would keep its rows', TG_RELID::regclass
            USING HINT = 'Drop that version first (qvec recalibrate --drop-old), or DELETE the rows.',
                  ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF TG_OP = 'INSERT' THEN
        EXECUTE note USING NEW.id, true;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE note USING OLD.id, false;
    ELSIF OLD.id = NEW.id THEN
        EXECUTE note USING NEW.id, OLD.codes IS DISTINCT FROM NEW.codes;
    ELSE
        EXECUTE note USING OLD.id, false;
        EXECUTE note USING NEW.id, true;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qvec._note_change()
    IS 'Trigger of a collection that has another version: records the ids of changed rows, and whether their codes '
       'changed';

CREATE OR REPLACE FUNCTION qvec._drop_version() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    kept regclass := (SELECT c.relation FROM qvec.collection AS c WHERE c.name = OLD.collection);
    other regclass;
BEGIN
    DELETE FROM qvec.collection AS c WHERE c.name = OLD.name RETURNING c.relation INTO other;
    IF other IS NOT NULL THEN
        EXECUTE format('DROP TABLE %s', other);
    END IF;
    IF kept IS NOT NULL THEN
        EXECUTE format('DROP TRIGGER IF EXISTS qvec_changes ON %s', kept);
        EXECUTE format('DROP TRIGGER IF EXISTS qvec_truncate ON %s', kept);
    END IF;
    EXECUTE format('DROP TABLE %s', OLD.changes);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION qvec._drop_version()
    IS 'Trigger: drops the table, the change capture and the collection of a version that is deleted';

CREATE OR REPLACE TRIGGER dropped AFTER DELETE ON qvec.version
    FOR EACH ROW EXECUTE FUNCTION qvec._drop_version();
