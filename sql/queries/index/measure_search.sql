SELECT n.distance FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
CROSS JOIN LATERAL pgmeaning._nearest_to_text(c, t, %(vector)s,
    ROW(%(k)s, NULL, %(mode)s, %(candidates)s, true, ARRAY[%(leave_out)s::jsonb], NULL,
        NULL)::pgmeaning.search_options) AS n
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
