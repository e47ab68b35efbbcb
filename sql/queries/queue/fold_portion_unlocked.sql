-- Leaves changes in the inbox if a user's open transaction has locked their queue row, with detach() or retry(). It is
-- slower, so it is used only after folding has met such a row.
candidate AS MATERIALIZED (
    SELECT i.ctid AS id, i.collection_id, i.key FROM {inbox} AS i
    WHERE CASE WHEN EXISTS (SELECT FROM {inbox})
               THEN (SELECT true FROM pgmeaning.lock AS l WHERE l.name = 'fold' FOR UPDATE SKIP LOCKED) END
    LIMIT %(limit)s
), queued_already AS MATERIALIZED (
    SELECT c.id, q.place
    FROM candidate AS c JOIN pgmeaning.target AS t USING (collection_id)
    CROSS JOIN LATERAL (SELECT q.ctid AS place FROM pgmeaning.queue AS q
                        WHERE q.collection_id = c.collection_id AND q.model = t.model AND q.key = c.key OFFSET 0) AS q
), free AS MATERIALIZED (
    SELECT q.ctid AS place FROM pgmeaning.queue AS q
    WHERE q.ctid = ANY (ARRAY(SELECT a.place FROM queued_already AS a)) FOR UPDATE SKIP LOCKED
), portion AS (
    SELECT c.id FROM candidate AS c
    WHERE c.id <> ALL (ARRAY(SELECT a.id FROM queued_already AS a
                             WHERE a.place <> ALL (ARRAY(SELECT f.place FROM free AS f))))
)
