SELECT pgmeaning._make_trigger_function(c) FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s
