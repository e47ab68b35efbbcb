-- The collections that are compared, in order, or an error for one that there is not: their tables and models, and
-- whether each row has its vector.
SELECT c.name, c.source::oid::bigint, pgmeaning._relation_name(c.source), c.model, c.columns <> '{}', s.owed, s.failed,
       s.vectors, pgmeaning._generation_mark(c) - 'vectors'
FROM unnest(%(collections)s::text[]) WITH ORDINALITY AS n (name, place)
CROSS JOIN LATERAL pgmeaning._collection(n.name) AS c
JOIN pgmeaning.status AS s ON s.collection = c.name AND s.model = c.model
ORDER BY n.place
