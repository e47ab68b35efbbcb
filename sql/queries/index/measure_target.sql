SELECT pgmeaning._relation_name(t.vectors) AS vectors, t.dimensions,
       pgmeaning._key_json('v', c.vector_key_columns, c) AS key_json,
       pgmeaning._key_match('o', c.vector_key_columns, 'v', c.vector_key_columns, c.key_types) AS same_key,
       CASE WHEN w.kind = 'exact' THEN 'exact' WHEN w.indexed THEN w.kind ELSE 'scan' END AS kind
FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
CROSS JOIN LATERAL pgmeaning._search_plan(t, NULL, %(k)s, NULL) AS w
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
