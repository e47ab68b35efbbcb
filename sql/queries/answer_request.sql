-- The reply. Committed before the locks of the requests are let go.
SELECT pgmeaning._answer(%(model)s, %(as_query)s, %(input)s, %(embedding)s)
