-- The server process of this session right now, and whether the settings it was opened with reached the server.
SELECT pg_backend_pid(),
       current_setting('search_path') = 'pg_catalog' AND current_setting('TimeZone') = 'UTC'
       AND current_setting('enable_seqscan') = 'off'
