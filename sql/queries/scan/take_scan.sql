-- Takes the lock to scan one collection, until the end of the transaction, and how many rows may be taken at once: no
-- more than a second's, nor than are wanted, nor than the tokens that are left make by the average so far. No row:
-- another sidecar holds it, or it is to go no faster, or no further.
SELECT t.scan_cursor::text, least(ceil(t.scan_rate), t.scan_until - t.scanned,
           (t.scan_tokens - u.tokens) / nullif(greatest(u.tokens / nullif(u.documents, 0), 1), 0))::int8
FROM pgmeaning.target AS t
LEFT JOIN pgmeaning.usage AS u ON u.collection_id = t.collection_id AND u.model = t.model
WHERE t.collection_id = %(collection_id)s AND t.model = %(model)s AND t.scanning
  AND coalesce(t.scan_allowed_at <= clock_timestamp(), true) AND NOT pgmeaning._is_held(t)
  AND EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.id = %(collection_id)s AND c.state <> 'paused')
FOR UPDATE OF t SKIP LOCKED
