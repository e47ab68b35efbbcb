-- The collections as a migration would attach them, each as it will be: during a swap, as the generation that fills.
SELECT c.name, n.nspname AS schema, r.relname AS table, n.nspname = current_schema() AS is_default, c.columns::text[],
    w.template, w.image::text, w.video::text, w.chunking, w.language, w.columns::text[] AS embedded, w.model,
    t.dimensions, t.vector_type
FROM pgmeaning.collection AS c
JOIN pg_catalog.pg_class AS r ON r.oid = c.source
JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
LEFT JOIN pgmeaning.swap AS s ON s.collection = c.name AND s.state = 'filling'
JOIN pgmeaning.collection AS w ON w.id = coalesce(s.new_id, c.id)
JOIN pgmeaning.target AS t ON t.collection_id = w.id AND t.model = w.model
WHERE c.role = 'active'
ORDER BY c.name
