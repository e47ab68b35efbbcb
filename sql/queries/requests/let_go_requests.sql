-- Wakes the sessions that wait for the reply, and lets other sidecars take equal queries.
SELECT pg_advisory_unlock(pgmeaning._request_lock_class(), pgmeaning._lock_number(r.id)),
       pg_advisory_unlock(pgmeaning._query_lock_class(), r.number)
FROM unnest(%(ids)s::bigint[], %(numbers)s::int[]) AS r (id, number)
