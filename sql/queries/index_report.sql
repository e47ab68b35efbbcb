SELECT * FROM pgmeaning.index_report WHERE %(collection)s::text IS NULL OR collection = %(collection)s ORDER BY collection, model
