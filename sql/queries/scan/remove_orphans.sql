-- Deletes a portion of the vectors whose row is gone.
DELETE FROM {vectors}
WHERE ctid = ANY (ARRAY(SELECT v.ctid FROM {vectors} AS v
                        WHERE NOT EXISTS (SELECT FROM {source} AS s WHERE {vector_is_source}) LIMIT %(limit)s))
