-- The collections of a table, the one that serves first; no row: none. A table that does not exist is told, too.
SELECT to_regclass(%(table)s) IS NOT NULL, c.name
FROM (SELECT) AS one
LEFT JOIN pgmeaning.collection AS c ON c.source = to_regclass(%(table)s) AND c.role = 'active'
ORDER BY c.name = (parse_ident(%(table)s))[cardinality(parse_ident(%(table)s))] DESC, c.id
LIMIT 1
