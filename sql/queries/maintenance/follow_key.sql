SELECT pgmeaning._follow_key(%(collection_id)s)
