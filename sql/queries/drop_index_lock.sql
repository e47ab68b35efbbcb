SELECT pg_advisory_unlock(1885826407, (%(vectors)s %% 2147483647)::int)
