-- Which server process this session has right now, and whether the settings that it was opened with reached it.
SELECT pg_backend_pid(),
       current_setting('search_path') = 'pg_catalog' AND current_setting('TimeZone') = 'UTC'
       AND current_setting('enable_seqscan') = 'off'
