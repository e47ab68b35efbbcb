-- Queries' vectors by a collection's model, in order: from the cache or from a sidecar.
SELECT v.vector
FROM unnest(pgmeaning._vectors(pgmeaning._query_model(%(collection)s, NULL, 'embed('), %(inputs)s::text[], true,
                               %(timeout)s)) WITH ORDINALITY AS v (vector, place)
ORDER BY v.place
