-- The source cannot be scanned: said, and tried again after a while.
UPDATE pgmeaning.target SET scan_problem = %(problem)s, scan_retry_at = now() + %(pause)s
WHERE collection_id = %(collection_id)s AND model = %(model)s
