UPDATE pgmeaning.target SET scanning = false, scan_cursor = NULL, scan_finished_at = now()
WHERE collection_id = %(collection_id)s AND model = %(model)s
