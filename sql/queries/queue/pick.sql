-- The most urgent rows; those that may have crashed two sidecars are left to pick_suspect.
SELECT q.ctid
FROM pgmeaning.queue AS q
WHERE q.model = %(model)s AND q.failed_at IS NULL AND q.visible_at <= now() AND q.attempts < %(attempts)s
  AND q.priority >= %(priority)s
  AND q.collection_id = ANY (ARRAY(SELECT c.id FROM pgmeaning.collection AS c
                                   WHERE c.id = ANY (%(collections)s) AND c.state <> 'paused'))
  AND q.died + (q.claimed_by IS NOT NULL)::int < 2
ORDER BY q.priority DESC, q.visible_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED
