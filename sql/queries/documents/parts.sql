-- A table's name as a person writes it in SQL, in its parts.
SELECT parse_ident(%(table)s)
