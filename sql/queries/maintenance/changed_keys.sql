-- Collections whose key has another type than their vector tables, one that these can have. Such a one is broken, so
-- the others need no look.
SELECT c.id, c.name
FROM pgmeaning.collection AS c
CROSS JOIN LATERAL unnest(c.key_columns, pgmeaning._present_key_types(c), c.key_types) AS u (name, present, known)
WHERE c.problem IS NOT NULL AND c.source <> 0
GROUP BY c.id
HAVING bool_or(u.present <> u.known) AND bool_and(pgmeaning._can_follow(u.known, u.present))
