-- Held by whoever builds an index of this vector table.
SELECT pg_try_advisory_lock(1885826407, (%(vectors)s %% 2147483647)::int)
