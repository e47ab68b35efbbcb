-- What the server tells of itself, memory in MB. It is beside us where both ends have one address, or a socket.
SELECT coalesce((SELECT coalesce(a.default_version, e.extversion) FROM pg_extension AS e
                 LEFT JOIN pg_available_extensions AS a ON a.name = e.extname
                 WHERE e.extname = 'vector'), '0') AS vector_version,
       inet_client_addr() IS NOT DISTINCT FROM inet_server_addr() AS beside,
       current_setting('max_parallel_maintenance_workers')::int AS workers,
       current_setting('max_parallel_workers')::int AS all_workers,
       (pg_size_bytes(current_setting('maintenance_work_mem')) / 1048576)::int AS maintenance_memory,
       (pg_size_bytes(current_setting('shared_buffers')) / 1048576)::int AS shared_buffers
