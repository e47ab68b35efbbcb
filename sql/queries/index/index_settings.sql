-- The main part of a table of long vectors is small, and by its size would get no workers.
SELECT set_config('maintenance_work_mem', %(memory)s, false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false),
       set_config('min_parallel_table_scan_size', '0', false)
