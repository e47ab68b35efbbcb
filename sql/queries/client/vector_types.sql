-- pgvector's types, wherever that extension was put, and the system's bit; a type's name may be another's on the
-- search_path.
SELECT t.typname, t.oid, t.typarray
FROM pg_catalog.pg_type AS t
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname = 'bit'
   OR t.typnamespace = (SELECT e.extnamespace FROM pg_catalog.pg_extension AS e WHERE e.extname = 'vector')
      AND t.typname IN ('vector', 'halfvec', 'sparsevec')
