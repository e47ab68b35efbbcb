-- While a swap of the collection is under way, its other generation.
SELECT o.name FROM pgmeaning._collection(%(collection)s) AS c
CROSS JOIN LATERAL pgmeaning._other_generation(c.id) AS o WHERE o.name IS NOT NULL
