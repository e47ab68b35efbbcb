-- Wakes who waits for the reply, and lets other sidecars have equal queries.
SELECT pg_advisory_unlock(1885826406, (r.id %% 2147483647)::int), pg_advisory_unlock(1885826408, r.number)
FROM unnest(%(ids)s::bigint[], %(numbers)s::int[]) AS r (id, number)
