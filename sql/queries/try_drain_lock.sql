-- "Somebody is awake": triggers that cannot share this lock send no NOTIFY.
SELECT pg_try_advisory_lock(1885826405, 1)
