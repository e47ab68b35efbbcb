-- A release; without a name, the current one.
SELECT r.name, r.embedder, r.reranker, r.dimensions, r.signed_off_by, r.signed_off_at
FROM pgmeaning.release AS r WHERE CASE WHEN %(name)s::text IS NULL THEN r.current ELSE r.name = %(name)s END
