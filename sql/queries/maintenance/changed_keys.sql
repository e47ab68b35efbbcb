-- Collections whose key has another type than their vector tables, one that these can have.
SELECT c.id, c.name
FROM pgmeaning.collection AS c
CROSS JOIN LATERAL unnest(c.key_columns, c.key_types) AS u (name, type)
JOIN pg_attribute AS a ON a.attrelid = c.source AND a.attname = u.name AND NOT a.attisdropped
WHERE format_type(a.atttypid, -1) <> u.type  -- the same but for domains, of which the type below counts
GROUP BY c.id
HAVING bool_or(pgmeaning._key_type(a.atttypid) <> u.type)
   AND bool_and(pgmeaning._can_follow(u.type, pgmeaning._key_type(a.atttypid)))
