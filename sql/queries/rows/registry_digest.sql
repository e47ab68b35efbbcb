-- One number for all the marks: while it is the same, the registry is.
SELECT coalesce(sum(hashtextextended(concat_ws(':', m.collection_id, m.model, m.mark), 0)), 0)::text
FROM pgmeaning._registry_marks() AS m
