-- Columns of rows, as text, in the order of their keys; a row that is gone is left out.
SELECT r.place, r.contents
FROM pgmeaning._rows(%(collection)s, %(keys)s::text[]::jsonb[], '{}'::text[], %(columns)s::text[]) AS r
ORDER BY r.place
