-- New objects go to pgmeaning; the type vector is found in whatever schema its extension is.
SELECT pg_catalog.set_config('search_path', pg_catalog.format('pgmeaning, pg_catalog, %I', n.nspname), true)
FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'vector'
