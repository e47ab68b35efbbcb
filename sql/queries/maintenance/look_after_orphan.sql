SELECT pgmeaning._look_after_orphan(%(collection_id)s, %(grace)s, %(reader)s)
