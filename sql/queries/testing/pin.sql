-- Other values for the rest of the transaction.
SELECT pg_catalog.set_config(s.name, s.value, true)
FROM unnest(%(names)s::text[], %(values)s::text[]) AS s (name, value)
