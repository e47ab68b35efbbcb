-- One sidecar at a time looks after the sources, for one transaction.
SELECT pg_try_advisory_xact_lock(1885826405, 4)
