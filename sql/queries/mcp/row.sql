-- The text that was embedded of one row, as far as this role may see it; no row: it sees none of that key.
SELECT r.embedded_text
FROM pgmeaning._rows(%(collection)s,
    ARRAY[pgmeaning._full_key(pgmeaning._collection(%(collection)s), %(key)s)], ARRAY[NULL::text], %(columns)s) AS r
