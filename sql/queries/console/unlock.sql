-- Locks of a session outlast the transaction of the filter that took them.
SELECT pg_advisory_unlock_all()
