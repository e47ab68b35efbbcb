-- Collections without a table about which something is to be done: seen for the first time, with a table that has the
-- name again, or kept for long enough. What pg_class hides is not gone, so the function asks the catalog itself.
SELECT c.id, c.name
FROM pgmeaning.collection AS c LEFT JOIN pg_class AS r ON r.oid = c.source
WHERE r.oid IS NULL
  AND (c.kept_until IS NULL OR c.kept_until <= now() OR pgmeaning._namesake(c.source_name) IS NOT NULL)
