-- Ends the sessions of sidecars that are stopped or cut off: without a sign of life for more than a lease. While they
-- last, others leave the queries that they have, and the locks that they hold.
SELECT s.id, count(pg_terminate_backend(a.pid))
FROM pgmeaning.sidecar AS s
JOIN pg_stat_activity AS a ON a.usename = current_user AND a.datname = current_database()
    AND a.application_name LIKE 'pgmeaning %%' AND right(a.application_name, 36) = s.id::text
WHERE s.heartbeat_at < now() - %(lease)s
GROUP BY s.id
