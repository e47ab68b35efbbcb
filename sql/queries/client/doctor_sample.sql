-- Rows at random: their texts, and their vectors.
SELECT ARRAY[{texts}]::text[], {vector}::text FROM {table} WHERE {vector} IS NOT NULL
ORDER BY random() LIMIT %(sample)s
