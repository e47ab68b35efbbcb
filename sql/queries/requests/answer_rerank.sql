-- Stores the reply. It is committed before the request's lock is released.
UPDATE pgmeaning.request SET reply = %(scores)s, documents = NULL WHERE id = %(id)s
