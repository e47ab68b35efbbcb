SELECT pg_advisory_unlock(1885826406, (%(id)s::bigint %% 2147483647)::int)
