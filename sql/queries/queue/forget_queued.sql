-- Queue rows of collections that are gone: they were queued while detach() ran, which did not see them. One index probe
-- per collection.
WITH RECURSIVE queued AS (
    SELECT min(collection_id) AS id FROM pgmeaning.queue
    UNION ALL
    SELECT (SELECT min(q.collection_id) FROM pgmeaning.queue AS q WHERE q.collection_id > queued.id) FROM queued
    WHERE id IS NOT NULL
)
DELETE FROM pgmeaning.queue
WHERE collection_id = ANY (ARRAY(SELECT id FROM queued WHERE id IS NOT NULL
                                 AND id NOT IN (SELECT c.id FROM pgmeaning.collection AS c)))
