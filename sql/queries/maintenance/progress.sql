-- Collections that come along, for the log.
SELECT s.collection, s.owed, round(s.rows_per_second::numeric, 1)::float8 AS rows_per_second,
       round(extract(epoch FROM s.time_left) / 60, 1)::float8 AS minutes_left,
       round(s.cost::numeric, 2)::float8 AS cost, round(s.cost_left::numeric, 2)::float8 AS cost_left
FROM pgmeaning.status AS s WHERE s.owed > 0 AND s.rows_per_second > 0
