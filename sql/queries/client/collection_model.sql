-- The model that a collection is searched with, and the length of its vectors there.
SELECT t.model, t.dimensions
FROM pgmeaning.collection AS c JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.state = 'active'
WHERE c.name = %(collection)s
