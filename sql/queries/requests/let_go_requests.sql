-- Wakes the sessions that wait for the reply.
SELECT pg_advisory_unlock(pgmeaning._wake_number(r.id)) FROM unnest(%(ids)s::uuid[]) AS r (id)
