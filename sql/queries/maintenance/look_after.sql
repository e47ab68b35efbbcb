-- Mends what differs, and starts a scan where rows may have changed unseen.
SELECT l.changed, l.warning FROM pgmeaning._look_after(%(collection_id)s) AS l
