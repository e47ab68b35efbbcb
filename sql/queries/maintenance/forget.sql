SELECT pgmeaning._forget(c, false) FROM pgmeaning.collection AS c
WHERE c.id = %(collection_id)s AND NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = c.source)
