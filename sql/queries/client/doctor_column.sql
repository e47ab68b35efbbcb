-- A column as a person names it, table.column, quoted as in SQL: its table, quoted, its name and its type. No row:
-- there is none.
WITH named AS (SELECT parse_ident(%(column)s) AS parts)
SELECT pgmeaning._relation_name(a.attrelid), a.attname::text, t.typname
FROM named AS n
JOIN pg_attribute AS a ON a.attname = n.parts[cardinality(n.parts)] AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attrelid = to_regclass(nullif(
        (SELECT string_agg(quote_ident(u.part), '.' ORDER BY u.place)
         FROM unnest(n.parts[:cardinality(n.parts) - 1]) WITH ORDINALITY AS u (part, place)), ''))
JOIN pg_type AS t ON t.oid = a.atttypid
