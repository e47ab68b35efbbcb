SELECT * FROM pgmeaning.sidecars ORDER BY started_at
