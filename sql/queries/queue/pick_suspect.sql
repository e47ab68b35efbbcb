-- One row that may have crashed its sidecars, to be embedded alone, so that it does not take others with it.
SELECT q.ctid
FROM pgmeaning.queue AS q
WHERE q.model = %(model)s AND q.failed_at IS NULL AND q.visible_at <= now() AND q.attempts < %(attempts)s
  AND q.died > 0 AND q.died + (q.claimed_by IS NOT NULL)::int >= 2
  AND q.collection_id = ANY (ARRAY(SELECT c.id FROM pgmeaning.collection AS c
                                   WHERE c.id = ANY (%(collections)s) AND c.state <> 'paused'))
ORDER BY q.visible_at
LIMIT 1
FOR UPDATE SKIP LOCKED
