-- Rows that the file has no more.
DELETE FROM {table} AS t
WHERE NOT EXISTS (SELECT FROM pg_temp.pgmeaning_staged AS s WHERE s.{staged_key} = t.{key})
