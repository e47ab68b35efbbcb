-- The model that embed() uses for a query, and the length of the collection's vectors.
SELECT pgmeaning._query_model(%(collection)s, %(model)s, 'embed('),
       (SELECT t.dimensions FROM pgmeaning.collection AS c
        JOIN pgmeaning.target AS t ON t.collection_id = c.id WHERE c.name = %(collection)s)
