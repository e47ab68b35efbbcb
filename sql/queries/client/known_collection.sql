-- Raises what every function raises for a collection that there is not; one whose table was dropped is still there.
SELECT pgmeaning._collection(%(collection)s)
WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name = %(collection)s)
