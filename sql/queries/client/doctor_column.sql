-- A column's table, quoted, and its type; no row: there is no such column.
SELECT pgmeaning._relation_name(a.attrelid), t.typname
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = %(table)s::regclass AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped
