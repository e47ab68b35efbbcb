-- From the beginning, also where one was under way: what it has passed may have changed since.
UPDATE pgmeaning.target SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
WHERE collection_id = ANY (%(collections)s)
