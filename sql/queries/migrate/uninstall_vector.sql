-- pgvector, unless anything else in the database needs it.
DO $$
BEGIN
    DROP EXTENSION IF EXISTS vector;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
    RAISE NOTICE 'the extension vector is kept: %', SQLERRM;
END
$$
