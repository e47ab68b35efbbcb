SELECT n.distance FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
CROSS JOIN LATERAL pgmeaning._nearest_to_text(c, t, %(vector)s, %(k)s, %(mode)s, %(candidates)s, %(leave_out)s) AS n
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s
