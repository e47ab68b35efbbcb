SELECT pg_advisory_unlock(1885826405, 1)
