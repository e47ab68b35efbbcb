-- The columns of vectors, and the views on them, went with the extension: they are made again, and the rows are owed.
SELECT pgmeaning._mend_vectors(c, t), pgmeaning._mend_view(c)
FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id
JOIN pg_class AS s ON s.oid = c.source
JOIN pg_class AS r ON r.oid = t.vectors
WHERE NOT '{embedding,signature}'::name[] <@ pgmeaning._column_names(t.vectors)
