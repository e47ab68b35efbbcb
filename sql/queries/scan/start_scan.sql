-- Starts a scan from the beginning, even if one is in progress: rows that it has passed may have changed since.
UPDATE pgmeaning.target SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
WHERE collection_id = ANY (%(collections)s)
