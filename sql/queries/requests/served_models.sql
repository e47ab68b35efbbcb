-- The models of these requests, and whether one of those who ask may.
SELECT m.name, bool_or(pgmeaning._is_served(m.name, pg_get_userbyid(r.asker)))
FROM pgmeaning.request AS r JOIN pgmeaning.model AS m ON m.name = r.model
WHERE r.id = ANY (%(ids)s) AND EXISTS (SELECT FROM pg_roles AS u WHERE u.oid = r.asker)
GROUP BY m.name
