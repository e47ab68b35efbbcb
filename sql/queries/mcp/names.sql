-- The same without what costs time: the names, and the columns that a filter may speak of.
SELECT c.name, ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                     WHERE a.attrelid = c.source AND a.attnum > 0 AND NOT a.attisdropped
                       AND has_column_privilege(c.source, a.attnum, 'SELECT') ORDER BY a.attnum) AS columns,
       c.key_columns::text[] AS key
FROM pgmeaning.collection AS c JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = c.model
WHERE c.role = 'active' AND (%(only)s::text[] IS NULL OR c.name = ANY (%(only)s))
  AND has_any_column_privilege(c.source, 'SELECT') AND has_table_privilege(t.vectors, 'SELECT')
ORDER BY c.name
