-- The claims of this sidecar that the database knows of.
SELECT collection_id, model, key::text, generation, attempts FROM pgmeaning.queue
WHERE claimed_by = %(sidecar)s AND failed_at IS NULL AND visible_at > now()
