-- Collections that are behind by more than so many seconds, and come along.
SELECT s.collection, s.owed, extract(epoch FROM clock_timestamp() - least(s.oldest_owed,
           CASE WHEN t.scanning AND t.scan_finished_at IS NULL THEN t.scan_started_at END))::float8 AS oldest
FROM pgmeaning.status AS s
JOIN pgmeaning.collection AS c ON c.name = s.collection
JOIN pgmeaning.target AS t ON t.collection_id = c.id AND t.model = s.model
WHERE s.owed > 0 AND s.problem IS NULL AND s.state <> 'paused'
      AND clock_timestamp() - least(s.oldest_owed,
          CASE WHEN t.scanning AND t.scan_finished_at IS NULL THEN t.scan_started_at END)
          > make_interval(secs => %(max_lag)s)
