-- Takes the lock to scan one collection, until the end of the transaction; no row: another sidecar holds it.
SELECT scan_cursor::text FROM pgmeaning.target
WHERE collection_id = %(collection_id)s AND model = %(model)s AND scanning
  AND EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s AND c.state <> 'paused')
FOR UPDATE SKIP LOCKED
