-- If qvec is installed as an extension, pg_dump has to include the rows of its tables: they are the user's data.
BEGIN
    PERFORM pg_extension_config_dump('qvec.calibration', '');
    PERFORM pg_extension_config_dump('qvec.collection', '');
    PERFORM pg_extension_config_dump('qvec.ingest', '');
    PERFORM pg_extension_config_dump('qvec.attachment', '');
    PERFORM pg_extension_config_dump('qvec.version', '');
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- this script is not run by CREATE EXTENSION
END;

PERFORM set_config('client_min_messages', caller_messages, true);
PERFORM set_config('search_path', caller_path, true);
END $install$;
