-- Whether a collection was made before.
SELECT EXISTS (SELECT FROM pgmeaning.collection WHERE name = %(collection)s)
