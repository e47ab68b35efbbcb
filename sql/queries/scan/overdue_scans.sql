-- The periodic reconcile, for changes that triggers do not see: logical replication, session_replication_role =
-- replica, restores.
UPDATE pgmeaning.target SET scanning = true, scan_cursor = NULL, scanned = 0, scan_started_at = now()
WHERE NOT scanning AND scan_finished_at < now() - %(period)s
