-- What is said of a table of this name, and its columns; no row: there is none.
SELECT obj_description(c.oid, 'pg_class'),
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s)
