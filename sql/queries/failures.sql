SELECT * FROM pgmeaning.failures WHERE %(collection)s::text IS NULL OR collection = %(collection)s ORDER BY collection, failed_at NULLS LAST
