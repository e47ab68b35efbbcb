-- Where this server may be reached from itself, the likeliest first. A superuser may connect without a password, so a
-- socket will do; for others the server must ask for one, and with peer authentication on a socket it does not.
SELECT host, NULL AS ports FROM (
    -- From the view, which leaves out what the role may not see: current_setting() would raise an error.
    SELECT 1, btrim(split_part(setting, ',', 1)) FROM pg_settings WHERE name = 'unix_socket_directories'
    UNION ALL
    SELECT 2, CASE WHEN btrim(listen) IN ('*', '0.0.0.0', 'localhost', '') THEN '127.0.0.1'
                   WHEN btrim(listen) = '::' THEN '::1' ELSE btrim(listen) END
    FROM split_part(current_setting('listen_addresses'), ',', 1) AS listen
    WHERE current_setting('listen_addresses') <> ''
) AS candidate (rank, host)
WHERE host <> '' ORDER BY rank
