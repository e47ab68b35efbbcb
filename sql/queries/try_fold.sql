-- The right to fold, for one transaction.
SELECT pg_try_advisory_xact_lock(1885826405, 2)
