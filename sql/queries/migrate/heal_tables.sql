-- DROP EXTENSION vector CASCADE takes the cached vectors and those of probes along. Before the functions, which speak
-- of the columns.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = to_regclass('pgmeaning.model_probe')
                   AND a.attname = 'embedding' AND NOT a.attisdropped) THEN
        DELETE FROM pgmeaning.model_probe;
        ALTER TABLE pgmeaning.model_probe ADD COLUMN embedding vector NOT NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = to_regclass('pgmeaning.query_cache')
                   AND a.attname = 'embedding' AND NOT a.attisdropped) THEN
        TRUNCATE pgmeaning.query_cache;
        ALTER TABLE pgmeaning.query_cache ADD COLUMN embedding vector NOT NULL;
    END IF;
END
$$
