-- The collections that this role may search, with the columns that it may read; what COMMENTs say of them tells an
-- agent what they hold. Generations that do not serve are left out.
SELECT s.collection, s.source, obj_description(c.source, 'pg_class') AS description, s.state, s.model,
       c.key_columns::text[] AS key, c.columns::text[] AS embedded, c.template, c.image::text, c.video::text,
       c.language,
       c.chunking IS NOT NULL AS chunked, s.source_rows AS rows, s.vectors, s.owed, s.failed, s.problem, s.warning,
       (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                          'description', col_description(a.attrelid, a.attnum)) ORDER BY a.attnum)
        FROM pg_attribute AS a
        WHERE a.attrelid = c.source AND a.attnum > 0 AND NOT a.attisdropped
          AND has_column_privilege(c.source, a.attnum, 'SELECT')) AS columns
FROM pgmeaning.status AS s
JOIN pgmeaning.collection AS c ON c.name = s.collection
JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = s.model
WHERE s.role = 'active' AND s.state <> 'orphaned'
  AND (%(only)s::text[] IS NULL OR s.collection = ANY (%(only)s))
  AND (%(collection)s::text IS NULL OR s.collection = %(collection)s)
  AND has_any_column_privilege(c.source, 'SELECT') AND has_table_privilege(t.vectors, 'SELECT')
ORDER BY s.collection
