-- What the last migration left and is no longer there as it was. Read as jsonb: a version that was never released has
-- no column for it. Keys come before what refers to them.
WITH present AS ({catalog})
SELECT s.kind, s.name, s.ddl
FROM pgmeaning.installation AS i
CROSS JOIN LATERAL jsonb_to_recordset(to_jsonb(i) -> 'catalog') AS s (kind text, name text, mark text, ddl text)
WHERE NOT EXISTS (SELECT FROM present AS p WHERE (p.kind, p.name, p.mark) = (s.kind, s.name, s.mark))
ORDER BY s.kind = 'constraint' AND s.mark = 'f', s.kind, s.name
