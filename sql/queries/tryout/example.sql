-- Some row, for a first search.
SELECT * FROM {table} LIMIT 1
