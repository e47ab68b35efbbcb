-- Raises the usual error if there is no such collection; one whose table was dropped still exists.
SELECT pgmeaning._collection(%(collection)s)
WHERE NOT EXISTS (SELECT FROM pgmeaning.collection AS c WHERE c.name = %(collection)s)
