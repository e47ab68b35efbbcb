SELECT * FROM pgmeaning.evaluations
WHERE %(collection)s::text IS NULL OR collection = %(collection)s OR generation_name = %(collection)s
ORDER BY id DESC
