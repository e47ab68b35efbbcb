SELECT pgmeaning._sync_triggers(c) FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s
