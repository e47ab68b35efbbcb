-- What was asked is of no use any more, and whoever asked may be gone: it goes with the next housekeeping.
UPDATE pgmeaning.request SET error = %(error)s, input = '', documents = NULL, expires_at = least(expires_at, now())
WHERE id = %(id)s
