-- The reply. Committed before the request's lock is let go.
UPDATE pgmeaning.request SET reply = %(scores)s WHERE id = %(id)s
