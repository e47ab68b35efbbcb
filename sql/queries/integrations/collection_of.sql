-- The name of a table's collection; of several, the default one.
SELECT (pgmeaning._collection_of(r.reltype::regtype)).name FROM pg_catalog.pg_class AS r WHERE r.oid = %s::regclass
