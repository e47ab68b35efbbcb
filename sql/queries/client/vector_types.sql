-- pgvector's types, in whatever schema the extension is, and the system's bit: on the search_path, the same name may
-- be another type's.
SELECT t.typname, t.oid, t.typarray
FROM pg_catalog.pg_type AS t
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname = 'bit'
   OR t.typnamespace = (SELECT e.extnamespace FROM pg_catalog.pg_extension AS e WHERE e.extname = 'vector')
      AND t.typname IN ('vector', 'halfvec', 'sparsevec')
