-- Mends what differs, and starts a scan where rows may have changed unseen.
SELECT l.changed, l.warning FROM pgmeaning.collection AS c CROSS JOIN LATERAL pgmeaning._look_after(c) AS l
WHERE c.id = %(collection_id)s
