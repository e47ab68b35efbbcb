-- One row: its columns' names, types and texts, and what was embedded of it, whole; no row if it is gone.
SELECT r.names, r.types, r.contents, r.embedded_text
FROM pgmeaning._rows(%(collection)s, ARRAY[%(key)s::jsonb], ARRAY[NULL::text], %(columns)s::text[]) AS r
