WITH ended AS (
    UPDATE pgmeaning.target SET scanning = false, scan_cursor = NULL, scan_finished_at = now()
    WHERE collection_id = %(collection_id)s AND model = %(model)s
    RETURNING collection_id, scanned
)
UPDATE pgmeaning.collection AS c SET awaits_rows = false FROM ended AS e
WHERE c.id = e.collection_id AND c.awaits_rows AND e.scanned > 0
