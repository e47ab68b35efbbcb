-- Why the reader cannot see all the collection's rows just now; null: it can. Hidden rows would look deleted,
-- and so would those of a table whose name another has by now.
SELECT CASE WHEN r.oid IS NULL THEN 'its table was dropped'
            WHEN pgmeaning._relation_name(c.source) <> %(source)s THEN 'its table was renamed'
            ELSE pgmeaning._access_problem(c, %(reader)s) END
FROM pgmeaning.collection AS c LEFT JOIN pg_class AS r ON r.oid = c.source
WHERE c.id = %(collection_id)s
