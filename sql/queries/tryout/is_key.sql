-- Whether a column tells the rows apart.
SELECT count(*) = count(DISTINCT {key}) FROM pg_temp.pgmeaning_staged
