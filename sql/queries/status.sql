SELECT * FROM pgmeaning.status WHERE %(collection)s::text IS NULL OR collection = %(collection)s ORDER BY collection, model
