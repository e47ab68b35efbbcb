-- The public views with their columns, for the SQL reference.
SELECT c.relname, obj_description(c.oid, 'pg_class'),
       (SELECT array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class AS c
WHERE c.relnamespace = 'pgmeaning'::regnamespace AND c.relkind = 'v' AND c.relname !~ '^_'
ORDER BY c.relname
