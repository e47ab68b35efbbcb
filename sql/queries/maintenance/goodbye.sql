-- Takes the sidecar off the list, and ends its other sessions: a thread that hangs in a call may hold locks.
WITH gone AS (DELETE FROM pgmeaning.sidecar WHERE id = %(id)s)
SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
WHERE a.usename = current_user AND a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND a.application_name LIKE 'pgmeaning %%' AND right(a.application_name, 36) = %(id)s::text
