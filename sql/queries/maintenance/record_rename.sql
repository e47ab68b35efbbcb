SELECT pgmeaning._follow_rename(%(collection_id)s)
