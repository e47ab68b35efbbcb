-- Ends the sessions of sidecars that are stopped or cut off: without a sign of life for more than a lease. Their locks
-- would keep queries from being answered by others, and triggers from waking anybody.
SELECT s.id, count(pg_terminate_backend(a.pid))
FROM pgmeaning.sidecar AS s
JOIN pg_stat_activity AS a ON a.usename = current_user AND a.datname = current_database()
    AND a.application_name LIKE 'pgmeaning %%' AND right(a.application_name, 36) = s.id::text
WHERE s.heartbeat_at < now() - %(lease)s
GROUP BY s.id
