-- Rows at random: their texts, and their vectors. Only those that are chosen are made text of: that costs much.
SELECT ARRAY[{texts}]::text[], s.{vector}::text
FROM (SELECT {columns} FROM {table} WHERE {vector} IS NOT NULL ORDER BY random() LIMIT %(sample)s) AS s
