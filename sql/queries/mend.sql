SELECT pgmeaning._mend(%(collection_id)s, %(noted)s)
