-- The collections that a person may choose from, with what decides which searches they take. A generation that a swap
-- fills comes after what serves.
SELECT c.name, CASE WHEN r.oid IS NULL THEN c.source_name ELSE pgmeaning._relation_name(c.source) END AS source,
       c.model, c.language, c.image::text AS image, c.chunking IS NOT NULL AS has_chunks,
       m.modalities::text[] AS modalities, t.dimensions,
       pgmeaning._column_names(c.source)::text[] AS columns, c.key_columns::text[] AS key_columns
FROM pgmeaning.collection AS c
JOIN pgmeaning.target AS t ON t.collection_id = c.id
JOIN pgmeaning.model AS m ON m.name = c.model
LEFT JOIN pg_catalog.pg_class AS r ON r.oid = c.source
ORDER BY c.role <> 'active', c.name
