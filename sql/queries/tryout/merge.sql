-- Rows that are new or differ; what is as it was is not touched, so nothing of it is embedded again.
INSERT INTO {table} AS t ({names}) SELECT {values} FROM pg_temp.pgmeaning_staged AS s ORDER BY s.{place}
ON CONFLICT ({key}) DO UPDATE SET ({names}) = ROW ({excluded})
WHERE ROW ({current}) IS DISTINCT FROM ROW ({excluded})
