-- The reply. Committed before the request's lock is let go.
SELECT pgmeaning._answer(%(id)s, %(embedding)s)
